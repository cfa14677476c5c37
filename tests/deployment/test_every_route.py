"""Every route of the whole application leaves an entry in the record where it changes something, with who did what,
from where, and in which request."""

import base64
import hashlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Route
from tests.support.fake_node import FakeNode
from tests.support.serving import serving

from deployment.access import LOCAL_OPERATOR, KeyWish
from deployment.app import create_app
from deployment.settings import load

MODELS = Path(__file__).resolve().parents[2] / "models" / "ollama"
V10 = MODELS / "ramsey-model-v1.0.gguf"
V10_SHA256 = hashlib.sha256(V10.read_bytes()).hexdigest()
PRIVACY_KEY = {"id": "k1", "secret": base64.b64encode(bytes(range(32))).decode()}
UPLOAD = f"/admin/releases/blobs/{V10_SHA256}"

NO_ACTS = {
    "PUT /admin/releases/blobs/{sha256}": "a file alone does nothing: `release.create` names what it is used for",
    "POST /feedback": "a caller's vote on an answer",
    "POST /admin/sessions/{public_id}/revoke": "nobody is signed in here; the tests of sessions show its entry",
    "POST /auth/logout": "nothing without a session; with one it is recorded, as the tests of signing in show",
}
"""Besides inference and what Ollama's clients ask and are refused, which is no act either."""


@dataclass(frozen=True)
class Step:
    """A request to a route, and the action that the record then names; `$x` is what an answer before called x."""

    method: str
    route: str
    action: str
    path: str = ""
    body: Any = None
    keeps: str = ""
    """A field of the answer that later paths need."""
    facts: frozenset[str] = frozenset({"after"})


BOTH, BEFORE = frozenset({"before", "after"}), frozenset({"before"})
RELEASE = {
    "version": "v1.0",
    "modelfile": (MODELS / "Modelfile.v1.0").read_text(),
    "files": {f"./{V10.name}": V10_SHA256},
}
QUESTION = '{"prompt": "Hello", "expect": "ramsey"}'
SLOW = {
    "strategy": "canary",
    "steps": [{"weight": "10%", "min_time": "1h"}, {"weight": "100%", "min_time": "1h"}],
    "min_requests": 0,
    "gates": {"skip": ["digests", "memory", "load", "smoke", "evaluation"]},
    "probes": {"rate": 0},
}
STEPS = (
    Step("POST", "/admin/tenants", "tenant.create", body={"id": "acme", "name": "Acme"}),
    Step("POST", "/admin/tenants/{tenant_id}/disable", "tenant.disable", "/admin/tenants/acme/disable", {}, "", BOTH),
    Step("POST", "/admin/tenants/{tenant_id}/enable", "tenant.enable", "/admin/tenants/acme/enable", {}, "", BOTH),
    Step("PUT", "/admin/roles/{name}", "role.put", "/admin/roles/billing", {"permissions": ["usage:read"]}, "", BOTH),
    Step("DELETE", "/admin/roles/{name}", "role.delete", "/admin/roles/billing", facts=BEFORE),
    Step("POST", "/admin/keys", "key.create", body={"name": "shop"}, keeps="public_id"),
    Step("POST", "/admin/keys/{public_id}/rotate", "key.rotate", "/admin/keys/$public_id/rotate", {}, "", BOTH),
    Step("POST", "/admin/keys/{public_id}/revoke", "key.revoke", "/admin/keys/$public_id/revoke", {}, "", BEFORE),
    Step("PUT", "/admin/limits/{scope}/{subject:path}", "limits.put", "/admin/limits/model/m", {"concurrent": 3}),
    Step("DELETE", "/admin/limits/{scope}/{subject:path}", "limits.delete", "/admin/limits/model/m", facts=BEFORE),
    Step("POST", "/admin/nodes", "node.add", body={"name": "spare", "url": "$spare", "slots": 2}),
    Step("POST", "/admin/nodes/{name}/drain", "node.drain", "/admin/nodes/spare/drain", {}, "", BOTH),
    Step("DELETE", "/admin/nodes/{name}", "node.remove", "/admin/nodes/spare", facts=BEFORE),
    Step("PUT", "/admin/privacy/tenants/{tenant}", "privacy.set", "/admin/privacy/tenants/acme", {"keep": True}),
    Step("POST", "/admin/privacy/export", "privacy.export", body={"subject": "ada"}, facts=frozenset()),
    Step("POST", "/admin/privacy/erase", "privacy.erase", body={"subject": "ada"}, facts=frozenset()),
    Step("POST", "/admin/privacy/rotate", "privacy.rotate", body={}, facts=frozenset()),
    Step("POST", "/admin/releases", "release.create", body=RELEASE),
    Step("POST", "/admin/releases/{name}/distribute", "release.distribute", "/admin/releases/v1.0/distribute", {}),
    Step(
        "POST",
        "/admin/releases/{name}/evaluate",
        "release.evaluate",
        "/admin/releases/v1.0/evaluate",
        {"questions": QUESTION},
    ),
    Step(
        "PUT",
        "/admin/traffic/{model}",
        "traffic.set",
        "/admin/traffic/ramsey-model",
        {"version": "$version", "shares": [{"release": "ramsey-model:v1.1", "weight": 1}], "reason": "as it was"},
        "",
        BOTH,
    ),
    Step("PUT", "/admin/rollouts/lock", "rollout.lock", body={"message": "holidays"}, facts=BOTH),
    Step("DELETE", "/admin/rollouts/lock", "rollout.unlock", facts=BEFORE),
    Step("POST", "/admin/rollouts", "rollout.started", body={"release": "v1.0", "plan": SLOW}, facts=BOTH),
    Step(
        "POST", "/admin/rollouts/{rollout_id}/{verb}", "rollout.paused", "/admin/rollouts/current/pause", {}, "", BOTH
    ),
    Step("POST", "/admin/rollouts/rollback", "rollout.rolled_back", body={}, facts=BOTH),
    Step("POST", "/admin/releases", "release.create", body=RELEASE | {"version": "v1.2"}),
    Step("POST", "/admin/releases/prune", "release.prune", body={"keep": 1}, facts=frozenset()),
    Step("DELETE", "/admin/releases/{name}", "release.delete", "/admin/releases/v1.0", facts=BEFORE),
)


def routes() -> Iterator[tuple[str, Any]]:
    """Every route of the application, with its methods."""
    inside = list(create_app(load()).routes)
    while inside:
        route = inside.pop()
        if (router := getattr(route, "original_router", None)) is not None:
            inside += router.routes
        elif isinstance(route, Route):  # FastAPI's are, too
            for method in sorted(route.methods or ()):
                yield f"{method} {route.path}", route


def test_every_route_that_changes_something_is_walked_here() -> None:
    changing = {
        name
        for name, route in routes()
        if name.startswith(("POST ", "PUT ", "PATCH ", "DELETE "))
        and "x-permission" not in (getattr(route, "openapi_extra", None) or {})  # which is how inference names it
    }
    assert changing - NO_ACTS.keys() == {f"{step.method} {step.route}" for step in STEPS}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[tuple[httpx.AsyncClient, str, str]]:
    """With an administrator's key: its client, the key's id, and the address of a spare node."""
    model = {"modelfile": str(MODELS / "Modelfile"), "release": None}
    async with (
        FakeNode(models=()) as node,
        FakeNode(models=()) as spare,
        serving(node.url, model=model, data_dir=str(tmp_path), privacy={"keys": [PRIVACY_KEY]}) as (url, services),
    ):
        made = await services.access.service.create_key(LOCAL_OPERATOR, KeyWish("admin", roles=("admin",)))
        headers = {"x-api-key": made.new.key}
        async with httpx.AsyncClient(base_url=url, timeout=60, headers=headers) as http:
            yield http, made.record.public_id, spare.url


async def test_it_leaves_an_entry(gateway: tuple[httpx.AsyncClient, str, str]) -> None:
    http, admin, spare = gateway
    assert (await http.put(UPLOAD, content=V10.read_bytes())).status_code == 201
    split = (await http.get("/admin/traffic/ramsey-model")).json()
    known: dict[str, Any] = {"spare": spare, "version": split["version"]}
    for step in STEPS:
        path, body = step.path or step.route, step.body
        for name, value in known.items():
            path = path.replace(f"${name}", str(value))
            if isinstance(body, dict):
                body = {key: value if told == f"${name}" else told for key, told in body.items()}
        answer = await http.request(step.method, path, json=body)
        assert answer.is_success, (step, answer.text)
        assert '"error"' not in answer.text, (step, answer.text)
        if step.keeps:
            known[step.keeps] = answer.json()[step.keeps]
        request_id = answer.headers["x-request-id"]
        entries = (await http.get("/admin/audit?limit=50")).json()
        found = [entry for entry in entries if entry["request_id"] == request_id]
        assert step.action in {entry["action"] for entry in found}, (step, entries[:3])
        entry = next(entry for entry in found if entry["action"] == step.action)
        assert (entry["actor"], entry["actor_name"], entry["source"]) == (admin, "admin", "127.0.0.1")
        assert step.facts <= entry["detail"].keys(), entry
    assert (await http.get("/admin/audit/verify")).json()["whole"]

"""One tenant's hands on another's things, by every name that a thing has."""

from dataclasses import dataclass
from typing import Any

import pytest
from tests.support.attacked import Target

ALL_BUT_TENANTS = [
    "keys:read", "keys:write", "limits:read", "limits:write", "roles:read", "roles:write", "tenants:read",
    "tenants:write", "audit:read", "privacy:read", "privacy:write", "inference", "embeddings", "models:read",
]  # fmt: skip


@dataclass(frozen=True)
class Crowd:
    """Two tenants, each with somebody who may do everything there."""

    target: Target
    evil: str
    good: dict[str, Any]

    @property
    def good_id(self) -> str:
        return str(self.good["public_id"])

    def evil_asks(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        answer = self.target.ask(method, path, self.evil, **({} if body is None else {"json": body}))
        return answer.status_code, answer.text


@pytest.fixture(scope="module")
def crowd(target: Target) -> Crowd:
    for tenant in ("good", "evil"):
        target.made("/admin/tenants", {"id": tenant, "name": tenant})
    made = target.ask("PUT", "/admin/roles/tenant-admin", target.admin, json={"permissions": ALL_BUT_TENANTS})
    assert made.status_code == 200, made.text
    keys = {
        tenant: target.made("/admin/keys", {"name": f"of {tenant}", "tenant": tenant, "roles": ["tenant-admin"]})
        for tenant in ("good", "evil")
    }
    return Crowd(target, keys["evil"]["key"], keys["good"])


def test_another_tenants_keys(crowd: Crowd) -> None:
    own, nobodys = crowd.evil_asks("GET", "/admin/keys")[1], crowd.evil_asks("GET", "/admin/keys/0000000000")
    assert crowd.good_id not in own
    for method, path, body in (
        ("GET", f"/admin/keys/{crowd.good_id}", None),
        ("GET", "/admin/keys?tenant=good", None),
        ("POST", f"/admin/keys/{crowd.good_id}/rotate", {"overlap_seconds": 0}),
        ("POST", f"/admin/keys/{crowd.good_id}/revoke", None),
        ("POST", "/admin/keys", {"name": "x", "tenant": "good"}),
    ):
        status, text = crowd.evil_asks(method, path, body)
        assert status == 404, (path, text)
        assert "of good" not in text
    assert crowd.good_id not in crowd.evil_asks("GET", f"/admin/keys?after={crowd.good_id[:-1]}")[1]
    told = crowd.evil_asks("GET", f"/admin/keys/{crowd.good_id}")[1].replace(crowd.good_id, "0000000000")
    assert _without_id(told) == _without_id(nobodys[1]), "what is another's and what is nobody's look the same"
    assert crowd.target.ask("GET", "/models", crowd.good["key"]).status_code == 200


def test_another_tenants_limits(crowd: Crowd) -> None:
    for subject in (f"key/{crowd.good_id}", "tenant/good", "tenant/evil", "model/ramsey-model"):
        for method, body in (("PUT", {"concurrent": 1}), ("DELETE", None)):
            status, _ = crowd.evil_asks(method, f"/admin/limits/{subject}", body)
            assert status in {403, 404}, subject
    stored = crowd.target.ask("PUT", f"/admin/limits/key/{crowd.good_id}", crowd.target.admin, json={"concurrent": 99})
    assert stored.status_code == 200
    assert crowd.good_id not in crowd.evil_asks("GET", "/admin/limits")[1]


def test_another_tenants_record(crowd: Crowd) -> None:
    rotated = crowd.target.ask("GET", "/admin/keys", crowd.good["key"])
    assert rotated.status_code == 200
    assert crowd.good_id not in crowd.evil_asks("GET", "/admin/audit?limit=1000")[1]
    assert crowd.evil_asks("GET", "/admin/audit/verify")[0] == 403


def test_another_tenants_people(crowd: Crowd) -> None:
    for method, path, body in (
        ("PUT", "/admin/privacy/tenants/good", {"keep": False}),
        ("POST", "/admin/privacy/export", {"subject": "zora", "tenant": "good"}),
        ("POST", "/admin/privacy/erase", {"subject": "zora", "tenant": "good"}),
    ):
        status, text = crowd.evil_asks(method, path, body)
        assert status == 404, text
    assert crowd.evil_asks("POST", "/admin/privacy/rotate")[0] == 403
    assert "good" not in crowd.evil_asks("GET", "/admin/privacy/tenants")[1]


def test_another_tenant_itself(crowd: Crowd) -> None:
    for method, path, body in (
        ("POST", "/admin/tenants", {"id": "third", "name": "Third"}),
        ("POST", "/admin/tenants/good/disable", None),
        ("POST", "/admin/tenants/good/enable", None),
        ("PUT", "/admin/roles/tenant-admin", {"permissions": []}),
        ("DELETE", "/admin/roles/tenant-admin", None),
    ):
        assert crowd.evil_asks(method, path, body)[0] == 403, path
    assert "good" not in crowd.evil_asks("GET", "/admin/tenants")[1]


@pytest.mark.parametrize("path", ["/admin/nodes", "/admin/traffic", "/admin/releases", "/admin/rollouts", "/metrics"])
def test_what_belongs_to_all_tenants(crowd: Crowd, path: str) -> None:
    """Nodes, releases and traffic have no tenant: only the installation's own roles reach them."""
    assert crowd.evil_asks("GET", path)[0] == 403


def test_a_vote_on_another_tenants_answer(crowd: Crowd) -> None:
    target = crowd.target
    answered = target.ask("POST", "/generate", crowd.good["key"], json={"prompt": "Hello"}).headers["x-request-id"]
    assert crowd.evil_asks("POST", "/feedback", {"request_id": answered, "score": 0})[0] == 404
    vote = target.ask("POST", "/feedback", crowd.good["key"], json={"request_id": answered, "score": 1})
    assert vote.status_code == 201, "and the vote is still to be given by whose it is"


def test_an_answer_under_another_tenants_request_id(crowd: Crowd) -> None:
    """An id may be chosen: votes find the answer by tenant and id."""
    same = {"headers": {"x-request-id": "chosen-by-both"}, "json": {"prompt": "Hello"}}
    crowd.target.ask("POST", "/generate", crowd.good["key"], **same)
    crowd.target.ask("POST", "/generate", crowd.evil, **same)
    vote = {"request_id": "chosen-by-both", "score": 0}
    assert crowd.evil_asks("POST", "/feedback", vote)[0] == 201
    assert crowd.target.ask("POST", "/feedback", crowd.good["key"], json=vote).status_code == 201


def test_an_answer_kept_for_another_tenant(crowd: Crowd) -> None:
    ask: dict[str, Any] = {"prompt": "Hello, is this kept?", "temperature": 0, "seed": 1}
    target = crowd.target

    def cache(key: str, **headers: str) -> str:
        return target.ask("POST", "/generate", key, json=ask, headers=headers).headers["x-ramsey-cache"]

    assert [cache(crowd.good["key"]), cache(crowd.good["key"])] == ["miss", "hit"]
    for claimed in ({}, {"x-tenant": "good"}, {"x-ramsey-tenant": "good"}, {"x-ramsey-subject": "good"}):
        fresh = target.made("/admin/keys", {"name": "x", "roles": ["tenant-admin"]}, crowd.evil)["key"]
        ask["prompt"] += "?"
        assert cache(crowd.good["key"]) == "miss"
        assert cache(fresh, **claimed) == "miss"
        assert cache(crowd.good["key"]) == "hit"


def test_a_session_of_another_tenant_gives_nothing_of_it(crowd: Crowd) -> None:
    """A session chooses a node and a release, no more: each request says its whole conversation itself."""
    session = {"x-session-id": "shared"}
    chat = {"messages": [{"role": "user", "content": "Hello, my number is 4711"}]}
    crowd.target.ask("POST", "/chat", crowd.good["key"], json=chat, headers=session)
    crowd.target.ask(
        "POST", "/chat", crowd.evil, json={"messages": [{"role": "user", "content": "Hello?"}]}, headers=session
    )
    assert "4711" not in str(crowd.target.sent())
    stored = {"model": "ramsey-model", "input": "Go on", "previous_response_id": "resp_" + "0" * 32}
    assert crowd.evil_asks("POST", "/v1/responses", stored)[0] == 400


def test_a_model_that_a_key_may_not_ask(crowd: Crowd) -> None:
    bound = crowd.target.key(models=["other-model"])
    chat = [{"role": "user", "content": "x"}]
    for path, body in (
        ("/generate", {"prompt": "x"}),
        ("/generate", {"prompt": "x", "model": "ramsey-model:v1.1"}),
        ("/generate", {"prompt": "x", "model": "RAMSEY-MODEL:latest"}),
        ("/api/chat", {"model": "registry.ollama.ai/library/ramsey-model", "messages": chat}),
        ("/api/show", {"model": "ramsey-model"}),
        ("/api/embed", {"model": "ramsey-model", "input": "x"}),
        ("/v1/responses", {"model": "ramsey-model", "input": "x"}),
        ("/embeddings", {"input": "x"}),
    ):
        for pin in ({}, {"x-ramsey-release-pin": "ramsey-model:v1.1"}):
            assert crowd.target.ask("POST", path, bound, json=body, headers=pin).status_code == 403, path
    for path in ("/models", "/api/tags", "/api/ps", "/v1/models"):
        listed = crowd.target.ask("GET", path, bound).json()
        assert not listed.get("models")
        assert not listed.get("data")


def _without_id(text: str) -> str:
    return text.partition('"request_id"')[0] + text.rpartition('"hint"')[2]

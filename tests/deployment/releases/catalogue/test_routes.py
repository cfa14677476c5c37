"""Releases over the admin API: made of uploads, brought onto nodes, evaluated, given up; and what is refused."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.deployment.releases.catalogue.conftest import MODELS
from tests.support.fake_node import FakeNode
from tests.support.serving import serving

from deployment.access import LOCAL_OPERATOR as OPERATOR
from deployment.access import KeyWish, Permission
from deployment.app import Services

V10 = "2469e7bfb5a2592162a73e6d77c7aed1fd19871a9b39415d55e60d0b464d9738"
Api = tuple[httpx.AsyncClient, FakeNode, Services]


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """A gateway that serves v1.1 on one node."""
    model = {"modelfile": str(MODELS / "Modelfile"), "release": None}
    settings = {"releases": {"max_bytes": 4_000_000}, "server": {"max_body_bytes": 100_000}}
    async with (
        FakeNode(models=()) as node,
        serving(node.url, model=model, data_dir=str(tmp_path), **settings) as (url, services),
        httpx.AsyncClient(base_url=url, timeout=30) as http,
    ):
        yield http, node, services


async def make(http: httpx.AsyncClient, version: str | None = "v1.0") -> httpx.Response:
    content = (MODELS / "ramsey-model-v1.0.gguf").read_bytes()
    put = await http.put(f"/admin/releases/blobs/{V10}", content=content)
    assert (put.status_code, put.json()) == (201, {"sha256": V10, "present": True})
    text = (MODELS / "Modelfile.v1.0").read_text()
    body = {"version": version, "modelfile": text, "files": {"./ramsey-model-v1.0.gguf": V10}, "notes": "early"}
    return await http.post("/admin/releases", json=body)


async def events(http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = await http.post(path, json=body)
    assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, "text/event-stream"), answer.text
    last: dict[str, Any] = json.loads([line for line in answer.text.splitlines() if line.startswith("data: ")][-1][6:])
    return last


async def test_from_the_upload_to_the_end(api: Api) -> None:
    http, node, services = api
    assert (await http.get(f"/admin/releases/blobs/{V10}")).json()["present"] is False
    made = await make(http)
    assert made.status_code == 201, made.text
    assert (made.json()["name"], made.json()["weights_sha256"], made.json()["notes"]) == (
        "ramsey-model:v1.0",
        V10,
        "early",
    )
    again = await make(http)
    assert again.status_code == 409
    assert "ramsey-model:v1.0 was created" in again.json()["error"]["message"]
    done = await events(http, "/admin/releases/v1.0/distribute", {})
    digest = node.store.models["ramsey-model:v1.0"].digest
    assert done == {"reports": [{"node": "engine", "ok": True, "digest": digest, "problem": None}], "done": True}
    shown = (await http.get("/admin/releases/ramsey-model:v1.0")).json()
    assert (shown["digest"], shown["traffic"], shown["nodes"][0]["present"]) == (digest, None, True)
    questions = "\n".join(json.dumps({"prompt": "?", "expect": word}) for word in ("R(3,3)", "nonsense"))
    scores = (await events(http, "/admin/releases/v1.0/evaluate", {"questions": questions}))["evaluation"]
    assert (scores["right"], scores["of"], scores["wrong"][0]["expected"]) == (1, 2, "nonsense")
    listed = (await http.get("/admin/releases")).json()
    assert [(one["version"], one["traffic"]) for one in listed] == [("v1.0", None), ("v1.1", 1.0)]
    assert listed[0]["evaluation"]["right"] == 1
    refused = await http.delete("/admin/releases/v1.1")
    assert (refused.status_code, "100% of the traffic" in refused.text) == (409, True)
    assert (await http.delete("/admin/releases/v1.0")).status_code == 204
    assert set(node.store.models) == {"ramsey-model:v1.1"}
    assert not services.releases.catalogue.artefacts.has(V10)


async def test_an_upload_goes_past_the_bound_of_other_bodies_but_has_its_own(api: Api) -> None:
    http = api[0]
    large = b"x" * 4_000_001
    answer = await http.put(f"/admin/releases/blobs/{hashlib.sha256(large).hexdigest()}", content=large)
    assert (answer.status_code, answer.json()["error"]["hint"]) == (413, "Raise releases.max_bytes.")
    other = await http.put(f"/admin/releases/blobs/{V10}", content=b"x" * 3_000_000)
    assert (other.status_code, "has the SHA-256" in other.text) == (400, True)
    assert (await http.put("/admin/releases/blobs/x", content=b"x")).status_code == 400
    assert (await http.post("/generate", content=b"x" * 100_001)).status_code == 413


async def test_what_is_wrong_is_told_and_changes_nothing(api: Api) -> None:
    http, node, services = api
    junk = b"GGUF" + b"\0" * 100
    sha256 = hashlib.sha256(junk).hexdigest()
    assert (await http.put(f"/admin/releases/blobs/{sha256}", content=junk)).status_code == 201
    for body, words in (
        ({"modelfile": "FROM x", "files": {"x": sha256}, "version": "v3"}, "no usable GGUF"),
        ({"modelfile": "FROM x", "files": {}, "version": "v3"}, "not among the files"),
        ({"modelfile": "NONSENSE", "files": {}}, "is not a command"),
        ({"modelfile": "FROM x", "files": {"x": sha256}, "version": "V3"}, "capital letters"),
        ({"modelfile": "FROM x", "files": {"x": sha256}, "version": "x-cloud"}, "send prompts elsewhere"),
        ({"modelfile": "FROM x", "files": {"x": "f"}}, "files.x"),
    ):
        answer = await http.post("/admin/releases", json=body)
        assert (answer.status_code, words in answer.text) == (400, True), answer.text
    for path in ("distribute", "evaluate"):
        told = await events(
            http,
            f"/admin/releases/v9/{path}",
            {"questions": '{"prompt":"?","expect":"!"}'} if path == "evaluate" else {},
        )
        assert told["error"]["code"] == "not_found"
    bad = await http.post("/admin/releases/v1.1/evaluate", json={"questions": "{"})
    assert (bad.status_code, "line 1 is not JSON" in bad.text) == (400, True)
    assert [entry.tag for entry in await services.releases.catalogue.list()] == ["v1.1"]
    assert set(node.store.models) == {"ramsey-model:v1.1"}


async def test_every_route_needs_a_permission_before_it_reads_a_body(api: Api) -> None:
    http, _, services = api
    wish = KeyWish(name="reader", roles=("viewer",))
    key = (await services.access.service.create_key(OPERATOR, wish)).new.key
    headers = {"authorization": f"Bearer {key}"}
    assert (await http.get("/admin/releases", headers=headers)).status_code == 200
    for method, path in (
        ("PUT", f"/admin/releases/blobs/{V10}"),
        ("GET", f"/admin/releases/blobs/{V10}"),
        ("POST", "/admin/releases"),
        ("POST", "/admin/releases/prune"),
        ("POST", "/admin/releases/v1.1/distribute"),
        ("POST", "/admin/releases/v1.1/evaluate"),
        ("DELETE", "/admin/releases/v1.1"),
    ):
        answer = await http.request(method, path, headers=headers, json={} if method == "POST" else None)
        assert (answer.status_code, Permission.RELEASES_WRITE.value in answer.text) == (403, True), path
    assert not services.releases.catalogue.artefacts.has(V10)


async def test_pruning_over_the_api_leaves_what_has_traffic(api: Api) -> None:
    http, node, _ = api
    assert (await make(http)).status_code == 201
    await events(http, "/admin/releases/v1.0/distribute", {"nodes": ["engine"]})
    assert (await http.post("/admin/releases/prune", json={"keep": 1})).json() == []
    assert set(node.store.models) == {"ramsey-model:v1.0", "ramsey-model:v1.1"}
    assert (await http.post("/admin/releases/prune", json={"keep": 0})).status_code == 400


async def test_a_gateway_that_stops_ends_the_streams_of_progress(api: Api) -> None:
    http, node, services = api
    assert (await make(http)).status_code == 201
    node.fail("hang", path="/api/create")
    services.gateway.drain.refusing = True
    async with asyncio.timeout(20):
        told = await events(http, "/admin/releases/v1.0/distribute", {})
    assert told["error"]["code"] == "draining"

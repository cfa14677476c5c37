"""Which release answers, seen from the wire."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.deployment.gateway.conftest import Gate
from tests.deployment.gateway.test_callers import gate_before
from tests.support.fake_node import FakeNode

from deployment.access import LOCAL_OPERATOR, KeyWish
from deployment.releases.traffic import Share, Split, leaving
from deployment.releases.traits import Traits

OLD, NEW = "ramsey-model:v1.0", "ramsey-model:v1.1"
MODELS = (OLD, NEW, "ramsey-model:v0.9")
ASK = {"prompt": "Hello"}


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    async with FakeNode(models=MODELS) as node, gate_before(node) as opened:
        yield opened


async def put(gate: Gate, *shares: tuple[str, float], **more: Any) -> httpx.Response:
    now = (await gate.http.get("/admin/traffic/ramsey-model")).json()
    body = {"version": now["version"], "shares": [{"release": name, "weight": weight} for name, weight in shares]}
    return await gate.http.put("/admin/traffic/ramsey-model", json=body | more)


async def key(gate: Gate, name: str, **wish: Any) -> dict[str, str]:
    made = await gate.services.access.service.create_key(LOCAL_OPERATOR, KeyWish(name, **wish))
    return {"authorization": f"Bearer {made.new.key}"}


async def test_weights_divide_the_requests_and_each_answer_names_its_release(gate: Gate) -> None:
    answer = await put(gate, (OLD, 0.5), (NEW, 0.5), reason="a try")
    assert answer.status_code == 200, answer.text
    assert (answer.json()["set_by"], answer.json()["reason"]) == ("anonymous", "a try")
    seen: Counter[str] = Counter()
    for _ in range(60):
        told = await gate.http.post("/generate", json=ASK)
        assert told.headers["x-ramsey-release"] == told.json()["release"]
        assert told.json()["response"].startswith(f"This is {told.json()['release']} ")
        seen[told.json()["release"]] += 1
    assert seen.keys() == {OLD, NEW}  # by chance otherwise once in 2**59 runs
    listed = (await gate.http.get("/models")).json()["models"][0]
    assert listed["traffic"] == {OLD: 0.5, NEW: 0.5}


async def test_a_session_keeps_its_release_and_pins_go_first(gate: Gate) -> None:
    tenant = {"kind": "tenant", "value": "default", "release": OLD}
    beta = {"kind": "header", "value": "beta", "release": NEW}
    assert (await put(gate, (OLD, 0.5), (NEW, 0.5), sticky="session", pins=[beta])).status_code == 200

    async def release(**headers: str) -> str:
        answer = await gate.http.post("/generate", json=ASK, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.headers["x-ramsey-release"]

    sessions = {f"s{n}": await release(**{"x-session-id": f"s{n}"}) for n in range(30)}
    assert set(sessions.values()) == {OLD, NEW}
    for session, first in sessions.items():
        assert await release(**{"x-session-id": session}) == first
    assert await release(**{"x-ramsey-release-pin": "beta"}) == NEW
    assert await release(**{"x-ramsey-release-pin": "v1.0"}) == OLD
    assert (await put(gate, (OLD, 0.0), (NEW, 1.0), pins=[tenant])).status_code == 200
    assert await release() == OLD
    assert await release(**{"x-ramsey-release-pin": "v1.1"}) == NEW
    refused = await gate.http.post("/generate", json=ASK, headers={"x-ramsey-release-pin": "v0.9"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_release_without_traffic_is_only_for_who_may_see_releases(gate: Gate) -> None:
    assert (await put(gate, (OLD, 0.0), (NEW, 1.0))).status_code == 200
    user, operator = await key(gate, "user"), await key(gate, "operator", roles=("operator",))
    for release, status in ((NEW, 200), (OLD, 404), ("ramsey-model:v0.9", 404), ("ramsey-model:v7", 404)):
        answer = await gate.http.post("/generate", json=ASK | {"model": release}, headers=user)
        assert answer.status_code == status, release
    for release, status in ((NEW, 200), (OLD, 200), ("ramsey-model:v0.9", 200), ("ramsey-model:v7", 404)):
        answer = await gate.http.post("/generate", json=ASK | {"model": release}, headers=operator)
        assert answer.status_code == status, release
    tags = (await gate.http.get("/api/tags", headers=user)).json()["models"]
    assert [row["name"] for row in tags] == ["ramsey-model:latest", NEW]
    tags = (await gate.http.get("/api/tags", headers=operator)).json()["models"]
    assert len(tags) == 4


async def test_only_who_may_use_the_model_may_pin(gate: Gate) -> None:
    headers = await key(gate, "elsewhere", models=("other",)) | {"x-ramsey-release-pin": "v0.9"}
    answer = await gate.http.post("/generate", json=ASK, headers=headers)
    assert answer.status_code == 403


async def test_embeddings_come_from_one_release(gate: Gate) -> None:
    assert (await put(gate, (OLD, 0.49), (NEW, 0.51))).status_code == 200
    for _ in range(20):
        answer = await gate.http.post("/embeddings", json={"input": "Hello"})
        assert answer.headers["x-ramsey-release"] == NEW
    pinned = await gate.http.post("/embeddings", json={"input": "Hello"}, headers={"x-ramsey-release-pin": "v1.0"})
    assert pinned.headers["x-ramsey-release"] == OLD


async def test_the_cache_never_answers_for_another_release(gate: Gate) -> None:
    greedy = ASK | {"temperature": 0}
    first = await gate.http.post("/generate", json=greedy)
    assert (await gate.http.post("/generate", json=greedy)).headers["x-ramsey-cache"] == "hit"
    assert (await put(gate, (OLD, 1.0))).status_code == 200
    other = await gate.http.post("/generate", json=greedy)
    assert f"is {NEW} " in first.text
    assert f"is {OLD} " in other.text
    assert other.headers["x-ramsey-cache"] == "miss"
    assert (await put(gate, (OLD, 0.5), (NEW, 0.5))).status_code == 200
    answers = await asyncio.gather(*(gate.http.post("/generate", json=ASK | {"seed": 3}) for _ in range(40)))
    for answer in answers:  # coalesced among themselves, never with the other release's
        assert f"is {answer.headers['x-ramsey-release']} " in answer.text


@pytest.mark.parametrize(
    ("change", "status", "told"),
    [
        ({"shares": [{"release": NEW, "weight": 0.5}]}, 400, "sum to 0.5"),
        ({"shares": [{"release": "ramsey-model:v9", "weight": 1}]}, 409, "holds ramsey-model:v9"),
        ({"shares": [{"release": NEW, "weight": 1, "nodes": {"colour": "blue"}}]}, 409, "that it belongs to"),
        ({"shares": []}, 400, "shares"),
        ({"sticky": "cookie"}, 400, "sticky"),
        ({"surprise": 1}, 400, "surprise"),
        ({"shares": [{"release": NEW, "weight": "NaN"}]}, 400, "weight"),
        ({"version": 0}, 409, "changed meanwhile by settings"),
    ],
)
async def test_what_cannot_be_is_refused_and_nothing_changes(
    gate: Gate, change: dict[str, Any], status: int, told: str
) -> None:
    before = (await gate.http.get("/admin/traffic/ramsey-model")).json()
    body = {"version": before["version"], "shares": [{"release": NEW, "weight": 1}]} | change
    answer = await gate.http.put("/admin/traffic/ramsey-model", json=body)
    assert answer.status_code == status, answer.text
    assert told in answer.json()["error"]["message"]
    assert (await gate.http.get("/admin/traffic/ramsey-model")).json() == before
    assert (await gate.http.put("/admin/traffic/other", json=body)).status_code in {400, 404, 409}


async def test_each_change_is_in_the_record_and_only_operators_make_one(gate: Gate) -> None:
    user = await key(gate, "user")
    assert (await gate.http.get("/admin/traffic", headers=user)).status_code == 403
    assert (await gate.http.put("/admin/traffic/ramsey-model", json={}, headers=user)).status_code == 403
    assert (await put(gate, (OLD, 0.25), (NEW, 0.75), reason="why not")).status_code == 200
    record = (await gate.http.get("/admin/audit?limit=50", headers=await key(gate, "a", roles=("admin",)))).json()
    entry = next(each for each in record if each["action"] == "traffic.set")
    assert (entry["subject"], entry["detail"]["reason"]) == ("ramsey-model", "why not")
    assert entry["detail"]["before"]["shares"] == [{"release": NEW, "weight": 1.0, "nodes": {}}]
    assert [share["weight"] for share in entry["detail"]["after"]["shares"]] == [0.25, 0.75]
    whole = (await gate.http.get("/admin/traffic")).json()
    assert [row["traffic_version"] for row in whole["gateways"]] == [whole["version"]]


async def test_what_has_a_share_stays_loaded_and_what_left_is_unloaded(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaving, "_GRACE_S", 0.05)

    async def loaded(*names: str) -> None:
        async with asyncio.timeout(20):
            while {row["name"] for row in (await gate.http.get("/api/ps")).json()["models"]} != set(names):
                await asyncio.sleep(0.02)

    await loaded(NEW)
    assert (await put(gate, (OLD, 0.0), (NEW, 1.0))).status_code == 200
    await loaded(OLD, NEW)
    assert (await put(gate, (OLD, 1.0))).status_code == 200
    await loaded(OLD)


async def test_what_a_release_reads_as_structure_is_learnt_from_a_node(gate: Gate) -> None:
    traffic = gate.services.traffic
    info = {"tokenizer.ggml.tokens": ["<|own|>", "word"], "tokenizer.ggml.token_type": [3, 1]}
    info |= {"general.architecture": "llama", "llama.context_length": 8192}
    shown = {"model_info": info, "parameters": "num_ctx 2048\nnum_predict 160", "system": "You are Ramsey."}
    real = gate.node._routes["/api/show"]["POST"]

    async def show(exchange: Any, body: Any) -> None:
        if body.get("model") == OLD and body.get("verbose"):
            await exchange.json(shown)
        else:
            await real(exchange, body)

    gate.node._routes["/api/show"]["POST"] = show
    assert (await put(gate, (OLD, 0.0), (NEW, 1.0))).status_code == 200
    async with asyncio.timeout(20):
        while (traits := traffic.traits(OLD)) is None:
            await asyncio.sleep(0.02)
    assert traits == Traits(("<|own|>",), context=2048, answer=160, preamble=len("You are Ramsey."))


async def test_nobody_learns_where_a_node_keeps_its_files(gate: Gate) -> None:
    lines = (
        "FROM /root/.ollama/models/blobs/sha256-0a",
        r"ADAPTER C:\Users\Ann Lee\.ollama\blobs\sha256-0b",
        "FROM hf.co/acme/model",
        'TEMPLATE """FROM here"""',
    )
    real = gate.node._routes["/api/show"]["POST"]

    async def show(exchange: Any, body: Any) -> None:
        await exchange.json({"modelfile": "\n".join(lines), "details": {"family": "llama"}})

    gate.node._routes["/api/show"]["POST"] = show
    answer = (await gate.http.post("/api/show", json={"model": "ramsey-model"})).json()
    gate.node._routes["/api/show"]["POST"] = real
    assert answer["details"] == {"family": "llama"}
    assert answer["modelfile"].splitlines() == ["FROM sha256-0a", "ADAPTER sha256-0b", *lines[2:]]


async def test_nobody_changes_by_hand_what_a_rollout_moves(gate: Gate) -> None:
    room = gate.services.traffic_room
    moved = Split("ramsey-model", (Share(NEW, 1.0),), candidate=NEW, rollout="r1", set_by="rollout r1")
    async with gate.services.database.write() as connection:
        await room.store.put(connection, moved, expected_version=None)
    await room.service.nudge()
    refused = await put(gate, (OLD, 1.0))
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert "The rollout r1 moves the traffic" in refused.json()["error"]["message"]
    assert gate.services.traffic.table == {"ramsey-model": NEW}
    version = gate.services.traffic.version
    assert [row.traffic_version for row in await room.service.gateways()] == [version]

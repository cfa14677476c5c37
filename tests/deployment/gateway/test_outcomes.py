"""What the judge hears of requests, what a shadow sees of them, and what callers say of answers: from the wire."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
from tests.deployment.gateway.conftest import Gate
from tests.deployment.gateway.test_callers import gate_before, leave
from tests.deployment.gateway.test_traffic import key
from tests.support.fake_node import FakeNode
from tests.support.fake_node.models import FakeModel

from deployment.access import LOCAL_OPERATOR
from deployment.releases.traffic import Outcome, OutcomeBatch, Shadow, Share, Split, Sticky

OLD, NEW = "ramsey-model:v1.0", "ramsey-model:v1.1"
ASK = {"prompt": "Hello"}
ROLLOUT = Split(
    "ramsey-model", (Share(OLD, 0.0), Share(NEW, 1.0)), candidate=NEW, rollout="r1", salt="r1", set_by="rollout"
)


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    async with FakeNode(models=(OLD, NEW)) as node, gate_before(node) as opened:
        yield opened


async def put(gate: Gate, split: Split) -> None:
    room = gate.services.traffic_room
    async with gate.services.database.write() as connection:
        await room.store.put(connection, split, expected_version=None)
    await room.service.nudge()


async def batches(gate: Gate) -> list[OutcomeBatch]:
    await gate.services.traffic_room.recorder.flush()
    async with gate.services.database.read() as connection:
        return await gate.services.traffic_room.outcomes.after(connection, "r1", 0)


async def outcomes(gate: Gate) -> list[Outcome]:
    return [outcome for batch in await batches(gate) for outcome in batch.outcomes]


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("release", [OLD, NEW])
async def test_an_answer_is_an_outcome_of_its_side(gate: Gate, stream: bool, release: str) -> None:
    shares = tuple(Share(name, float(name == release)) for name in (OLD, NEW))
    await put(gate, replace(ROLLOUT, shares=shares, sticky=Sticky.SESSION))
    answer = await gate.http.post("/generate", json=ASK | {"stream": stream}, headers={"x-session-id": "s1"})
    assert answer.status_code == 200
    (outcome,) = await outcomes(gate)
    assert (outcome.candidate, outcome.weight, outcome.failed) == (release == NEW, float(release == NEW), False)
    assert outcome.length == len("Hello").bit_length()
    assert outcome.cluster is not None
    assert outcome.ttft_ms is not None
    assert outcome.token_ms is not None
    assert 0 <= outcome.token_ms < 1000


async def test_a_slow_release_is_slow_in_its_outcome() -> None:
    async with FakeNode(models=(OLD, NEW), token_delay_s=0.03) as node, gate_before(node) as gate:
        await put(gate, ROLLOUT)
        await gate.http.post("/generate", json=ASK | {"stream": True})
        (outcome,) = await outcomes(gate)
        assert outcome.token_ms is not None
        assert outcome.token_ms >= 25


@pytest.mark.parametrize(("fault", "stream"), [("error", False), ("error", True), ("cut", True)])
async def test_a_failure_is_an_outcome(gate: Gate, fault: str, stream: bool) -> None:
    await put(gate, ROLLOUT)
    gate.node.fail(fault, after=2 if stream else None)
    answer = await gate.http.post("/generate", json=ASK | {"stream": stream})
    gate.node.heal()
    assert answer.status_code == 200 or answer.status_code >= 500
    assert [(each.candidate, each.failed, each.ttft_ms) for each in await outcomes(gate)] == [(True, True, None)]


async def test_what_says_nothing_about_a_release_is_no_outcome(gate: Gate) -> None:
    await put(gate, ROLLOUT)
    assert (await gate.http.post("/generate", json={"prompt": 5})).status_code == 400
    assert (await gate.http.post("/generate", json=ASK | {"model": NEW})).status_code == 200
    pinned = await gate.http.post("/generate", json=ASK, headers={"x-ramsey-release-pin": "v1.1"})
    assert pinned.status_code == 200
    assert await outcomes(gate) == []
    for _ in range(2):
        await gate.http.post("/generate", json=ASK | {"temperature": 0})
    assert len(await outcomes(gate)) == 1  # made once, then kept
    gate.node.fail("hang")
    await leave(gate, "/generate", ASK | {"stream": True}, after=None)
    await until(lambda: not len(gate.services.gateway.exchanges))
    assert len(await outcomes(gate)) == 1
    assert gate.services.traffic_room.recorder._waiting == {}


def results(gate: Gate) -> dict[str, float]:
    samples = next(iter(gate.services.traffic_room.shadows._results.collect())).samples
    return {each.labels["result"]: each.value for each in samples if each.name.endswith("_total")}


@pytest.mark.parametrize(("reply", "equal"), [("It is six.", True), ("It is seven.", False)])
async def test_mirrored_answers_are_compared_and_thrown_away(reply: str, equal: bool) -> None:
    models, limits = (FakeModel(OLD, reply), FakeModel(NEW, "It is six.")), {"key": {"requests_per_minute": 3}}
    async with FakeNode(models=models) as node, gate_before(node, limits=limits) as gate:
        await put(gate, replace(ROLLOUT, shadow=Shadow(OLD, 1.0)))
        greedy = ASK | {"temperature": 0}
        answer = await gate.http.post("/generate", json=greedy | {"stream": True})
        assert answer.headers["x-ramsey-release"] == NEW
        await until(lambda: results(gate).get("equal" if equal else "different") == 1)
        again = await gate.http.post(
            "/generate", json=greedy | {"stream": True}
        )  # an answer from the cache asks nobody
        assert again.headers["x-ramsey-cache"] == "hit"
        assert "six" in again.text
        await gate.http.post("/generate", json=ASK)
        await until(lambda: results(gate).get("incomparable") == 1)
        shadow, sampled = [each for batch in await batches(gate) for each in batch.shadows]
        assert (shadow.equal, shadow.failed, sampled.equal) == (equal, False, None)
        assert shadow.ttft_ms is not None
        assert shadow.main_ttft_ms is not None
        # Three requests were the caller's, and no more than those were counted.
        assert (await gate.http.post("/generate", json=ASK)).status_code == 429


async def test_a_shadow_that_hangs_or_fails_costs_callers_nothing(gate: Gate) -> None:
    await put(gate, replace(ROLLOUT, shadow=Shadow(OLD, 1.0)))
    del gate.node.store.models[OLD]
    answer = await gate.http.post("/generate", json=ASK)
    assert answer.status_code == 200
    await until(lambda: results(gate).get("failed"))
    assert [(each.equal, each.failed) for b in await batches(gate) for each in b.shadows] == [(None, True)]
    gate.services.traffic_room.shadows._most = 0
    assert (await gate.http.post("/generate", json=ASK)).status_code == 200
    assert results(gate)["skipped"] == 1
    assert len(await outcomes(gate)) == 2  # the shadow's failure is not the candidate's


async def vote(gate: Gate, request_id: str, score: Any = "up", **more: Any) -> httpx.Response:
    headers = more.pop("headers", None)
    return await gate.http.post("/feedback", json={"request_id": request_id, "score": score} | more, headers=headers)


async def test_an_answer_gets_one_vote_of_its_own_tenant(gate: Gate) -> None:
    await put(gate, ROLLOUT)
    service = gate.services.access.service
    await service.create_tenant(LOCAL_OPERATOR, "acme", "Acme")
    acme, shop = await key(gate, "acme", tenant="acme"), await key(gate, "shop")
    answer = await gate.http.post("/generate", json=ASK, headers=acme)
    name = answer.headers["x-request-id"]
    assert (await vote(gate, name, headers=shop)).status_code == 404
    assert (await vote(gate, name, release=OLD, headers=acme)).status_code == 409
    given = await vote(gate, name, 0.25, comment="meh", headers=acme)
    assert (given.status_code, given.json()) == (201, {"status": "recorded", "release": NEW})
    assert (await vote(gate, name, headers=acme)).status_code == 409
    pinned = await gate.http.post("/generate", json=ASK, headers=shop | {"x-ramsey-release-pin": "v1.1"})
    assert (await vote(gate, pinned.headers["x-request-id"], headers=shop)).status_code == 201
    async with gate.services.database.read() as connection:
        votes = await gate.services.traffic_room.feedback_store.after(connection, "r1", 0)
    assert [(each.tenant, each.release, each.score, each.comment) for each in votes] == [("acme", NEW, 0.25, "meh")]


async def test_a_vote_that_makes_no_sense_is_refused(gate: Gate) -> None:
    for body in (
        {},
        {"request_id": "x"},
        {"request_id": "x", "score": "great"},
        {"request_id": "x", "score": 2},
        {"request_id": "x", "score": True},
        {"request_id": "x\n", "score": 1},
        {"request_id": "x", "score": 1, "comment": "c" * 2001},
        {"request_id": "x", "score": 1, "more": 1},
    ):
        answer = await gate.http.post("/feedback", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request"), body
    unknown = await vote(gate, "never-was")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")


async def test_a_vote_finds_the_gateway_that_answered(gate: Gate) -> None:
    settings = gate.services.settings
    url = f"sqlite:///{settings.data_dir.absolute() / 'ramsey.db'}"
    async with gate_before(gate.node, database={"url": url}) as other:
        await put(gate, ROLLOUT)
        await until(lambda: other.services.traffic.split("ramsey-model") == gate.services.traffic.split("ramsey-model"))
        answer = await gate.http.post("/generate", json=ASK)
        name = answer.headers["x-request-id"]
        given = await vote(other, name, "down")
        assert (given.status_code, given.json()["status"]) == (202, "pending")
        assert (await vote(other, name)).status_code == 409
        assert (await vote(other, "never-was")).status_code == 202
        await gate.services.traffic_room.feedback.take_pending()
        async with gate.services.database.read() as connection:
            votes = await gate.services.traffic_room.feedback_store.after(connection, "r1", 0)
        assert [(each.request_id, each.score, each.release) for each in votes] == [(name, 0.0, NEW)]
        assert (await vote(gate, name)).status_code == 409

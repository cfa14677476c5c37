"""Answers that need not be made again, seen from the wire."""

import asyncio
from typing import Any

import pytest
from tests.deployment.gateway.test_callers import gate_before, leave
from tests.deployment.gateway.test_faults import nothing_left
from tests.support.fake_node import FakeNode
from tests.support.redis_server import redis_server

HELLO = [{"role": "user", "content": "Hello"}]
GREEDY = {"prompt": "Hello", "temperature": 0}
CHAT = {"messages": HELLO, "temperature": 0}


def made(node: FakeNode) -> int:
    """Generations that the node made for callers; the pool's probes ask for one token."""
    return sum(path in ("/api/generate", "/api/chat") and "Hello" in str(body) for path, body in node.bodies)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", GREEDY),
        ("/generate", {"prompt": "Hello", "seed": 7}),
        ("/chat", CHAT),
        ("/api/chat", {"model": "ramsey-model", "messages": HELLO, "options": {"seed": 1}}),
        ("/v1/chat/completions", {"model": "ramsey-model", "messages": HELLO, "seed": 1}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_deterministic_answer_is_made_once(path: str, body: dict[str, Any], stream: bool) -> None:
    async with FakeNode() as node, gate_before(node) as gate:
        first = await gate.http.post(path, json=body | {"stream": stream})
        again = await gate.http.post(path, json=body | {"stream": stream})
        assert first.headers["x-ramsey-cache"] == "miss"
        assert again.headers["x-ramsey-cache"] == "hit"
        assert made(node) == 1
        assert _text(again.text) == _text(first.text)
        assert "This is ramsey-model" in _text(first.text).replace('", "', "") or stream


def _text(text: str) -> str:
    """Without what is each request's own."""
    import re

    return re.sub(r'"(request_id|id|timings|created|total_duration)":\s*("[^"]*"|\{[^}]*\}|\d+)', "", text)


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "Hello"},
        {"prompt": "Hello", "temperature": 0.1},
    ],
)
async def test_an_answer_that_may_differ_is_made_each_time(body: dict[str, Any]) -> None:
    async with FakeNode() as node, gate_before(node) as gate:
        for _ in range(2):
            assert "x-ramsey-cache" not in (await gate.http.post("/generate", json=body)).headers
        assert made(node) == 2


@pytest.mark.parametrize("change", [{"prompt": "Hello!"}, {"max_tokens": 3}, {"system": "s"}, {"stop": "x"}])
async def test_another_question_is_another_answer(change: dict[str, Any]) -> None:
    async with FakeNode() as node, gate_before(node) as gate:
        await gate.http.post("/generate", json=GREEDY)
        answer = await gate.http.post("/generate", json=GREEDY | change)
        assert answer.headers["x-ramsey-cache"] == "miss"


@pytest.mark.parametrize("control", ["no-cache", "no-store", "max-age=0, No-Store"])
async def test_a_caller_may_pass_the_cache_by(control: str) -> None:
    async with FakeNode() as node, gate_before(node) as gate:
        await gate.http.post("/generate", json=GREEDY)
        answer = await gate.http.post("/generate", json=GREEDY, headers={"cache-control": control})
        assert "x-ramsey-cache" not in answer.headers
        assert made(node) == 2


async def test_another_release_and_another_tenant_never_share() -> None:
    from deployment.access import generate_key

    keys = {tenant: generate_key() for tenant in ("one", "two")}
    access = {
        "keys": [{"name": t, "tenant": t, "roles": ["operator"], "sha256": key.sha256} for t, key in keys.items()]
    }
    models = ("ramsey-model:v1.0", "ramsey-model:v1.1")
    async with FakeNode(models) as node, gate_before(node, access=access) as gate:
        labels = []
        for tenant in ("one", "two", "one"):
            headers = {"authorization": f"Bearer {keys[tenant].key}"}
            labels.append((await gate.http.post("/generate", json=GREEDY, headers=headers)).headers["x-ramsey-cache"])
        assert labels == ["miss", "miss", "hit"]
        other = await gate.http.post(
            "/generate", json=GREEDY | {"model": "ramsey-model:v1.0"}, headers={"x-api-key": keys["one"].key}
        )
        assert other.headers["x-ramsey-cache"] == "miss"
        assert "v1.0" in other.json()["response"]


async def test_what_failed_is_not_kept() -> None:
    async with FakeNode() as node, gate_before(node) as gate:
        node.fail("cut", after=3, times=1, path="/api/chat")
        broken = await gate.http.post("/chat", json=CHAT | {"stream": True})
        assert "event: error" in broken.text
        whole = await gate.http.post("/chat", json=CHAT | {"stream": True})
        assert whole.headers["x-ramsey-cache"] == "miss"
        assert '"done":true' in whole.text


@pytest.mark.parametrize("stream", [False, True])
async def test_identical_requests_that_overlap_share_one_generation(stream: bool) -> None:
    async with FakeNode(token_delay_s=0.03) as node, gate_before(node) as gate:
        ask = GREEDY | {"stream": stream}
        answers = await asyncio.gather(*(gate.http.post("/generate", json=ask) for _ in range(20)))
        labels = sorted(answer.headers["x-ramsey-cache"] for answer in answers)
        assert labels.count("miss") == 1
        assert set(labels) <= {"miss", "coalesced", "hit"}
        assert made(node) == 1
        assert len({_text(answer.text) for answer in answers}) == 1
        await nothing_left(gate)


async def test_the_first_caller_may_leave_and_the_others_still_get_the_answer() -> None:
    async with FakeNode(token_delay_s=0.03) as node, gate_before(node) as gate:
        ask = GREEDY | {"stream": True}
        leaver = asyncio.create_task(leave(gate, "/generate", ask, after=b"data: "))
        await leaver
        follower = await gate.http.post("/generate", json=ask)
        assert '"done":true' in follower.text


async def test_when_all_have_left_the_work_stops() -> None:
    async with FakeNode(token_delay_s=0.02, tokens=5000) as node, gate_before(node) as gate:
        ask = GREEDY | {"stream": True}
        await asyncio.gather(*(leave(gate, "/generate", ask, after=b"data: ") for _ in range(5)))
        for _ in range(200):
            if not node.stats()["in_flight"]:
                break
            await asyncio.sleep(0.02)
        assert not node.stats()["in_flight"]
        await nothing_left(gate)


async def test_an_error_reaches_everybody_who_shares() -> None:
    async with FakeNode(token_delay_s=0.03) as node, gate_before(node) as gate:
        node.fail("error", after=5, times=1, path="/api/chat")  # the pool's own probes ask /api/generate
        ask = CHAT | {"stream": True}
        answers = await asyncio.gather(*(gate.http.post("/chat", json=ask) for _ in range(5)))
        assert all("event: error" in answer.text for answer in answers)


async def test_a_small_store_forgets_the_oldest_and_none_holds_nothing() -> None:
    async with FakeNode() as node, gate_before(node, cache={"max_bytes": 0}) as gate:
        for _ in range(2):
            assert (await gate.http.post("/generate", json=GREEDY)).headers["x-ramsey-cache"] == "miss"
    async with FakeNode() as node, gate_before(node, cache={"enabled": False}) as gate:
        assert "x-ramsey-cache" not in (await gate.http.post("/generate", json=GREEDY)).headers


async def test_lookups_are_counted() -> None:
    async with FakeNode() as node, gate_before(node) as gate:
        for _ in range(3):
            await gate.http.post("/generate", json=GREEDY)
        metrics = (await gate.http.get("/metrics")).text
        assert 'ramsey_cache_lookups_total{result="hit"} 2.0' in metrics
        assert 'ramsey_cache_lookups_total{result="miss"} 1.0' in metrics


@pytest.mark.parametrize(("threshold", "label"), [(0.0, "semantic"), (1.0, "miss")])
async def test_a_question_that_means_the_same_has_the_same_answer(threshold: float, label: str) -> None:
    cache = {"semantic": True, "semantic_threshold": threshold}
    async with FakeNode() as node, gate_before(node, cache=cache) as gate:
        first = await gate.http.post("/chat", json=CHAT)
        alike = {"messages": [{"role": "user", "content": "Hello there"}], "temperature": 0}
        second = await gate.http.post("/chat", json=alike)
        assert (first.headers["x-ramsey-cache"], second.headers["x-ramsey-cache"]) == ("miss", label)
        assert second.json()["message"] == first.json()["message"]
        other = await gate.http.post("/chat", json=alike | {"max_tokens": 3})
        assert other.headers["x-ramsey-cache"] == "miss", "everything but the wording must be equal"


async def test_without_embeddings_questions_are_answered_all_the_same() -> None:
    async with FakeNode() as node, gate_before(node, cache={"semantic": True}) as gate:
        node.fail("error", path="/api/embed")
        assert (await gate.http.post("/chat", json=CHAT)).status_code == 200


async def test_gateways_share_their_answers_through_redis() -> None:
    async with FakeNode() as node:
        with redis_server() as server:
            cache = {"redis_url": server.url}
            async with gate_before(node, cache=cache) as one, gate_before(node, cache=cache) as two:
                assert (await one.http.post("/generate", json=GREEDY)).headers["x-ramsey-cache"] == "miss"
                assert (await two.http.post("/generate", json=GREEDY)).headers["x-ramsey-cache"] == "hit"
                server.kill()
                answer = await two.http.post("/generate", json=GREEDY)
                assert (answer.status_code, answer.headers["x-ramsey-cache"]) == (200, "miss")

"""The parts of the cache alone: time, size, likeness, and a Redis that goes away."""

import asyncio
import time
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs
from tests.support.redis_server import redis_server

from deployment.engines import Call
from deployment.gateway.cache import MemoryStore, RedisStore, SemanticIndex
from deployment.gateway.cache.keys import is_deterministic, key_of, split_question
from deployment.gateway.cache.semantic import cosine


class Time:
    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


async def test_an_answer_lives_its_time() -> None:
    time = Time()
    store = MemoryStore(1000, 60, time)
    await store.put(b"k", b"v")
    time.at = 59.9
    assert await store.get(b"k") == b"v"
    time.at = 60
    assert await store.get(b"k") is None
    assert store.held_bytes == 0


async def test_the_least_recently_used_goes_first() -> None:
    store = MemoryStore(700, 60, Time())
    for key in (b"a", b"b", b"c"):
        await store.put(key, b"")
    await store.get(b"a")
    await store.put(b"d", b"")
    assert [await store.get(key) for key in (b"a", b"b", b"c", b"d")] == [b"", None, b"", b""]
    await store.put(b"huge", b"x" * 701)
    assert await store.get(b"huge") is None
    await store.put(b"a", b"new")
    assert store.held_bytes <= 700


def call(tenant: str = "t", release: str = "m:v1", **body: Any) -> Call:
    return Call(
        "/api/chat", release, {"messages": [{"role": "user", "content": "q"}], "options": {"seed": 1}} | body, tenant
    )


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        ({}, True),
        ({"options": {"temperature": 0}}, True),
        ({"options": {"temperature": 0.0, "top_k": 1}}, True),
        ({"options": {}}, False),
        ({"options": {"temperature": 0.2}}, False),
        ({"tools": [{"type": "function"}]}, False),
        ({"messages": []}, False),
    ],
)
def test_which_answers_are_always_the_same(body: dict[str, Any], kept: bool) -> None:
    assert is_deterministic(call(**body)) is kept


def test_what_tells_answers_apart() -> None:
    keys = {
        key_of(each)
        for each in (call(), call("other"), call(release="m:v2"), call(options={"seed": 2}), call(stream=True))
    }
    assert len(keys) == 5
    assert key_of(call(keep_alive=5)) == key_of(call())
    assert key_of(call(options={"a": 1, "b": 2})) == key_of(call(options={"b": 2, "a": 1}))


def test_only_the_wording_of_the_last_question_may_differ() -> None:
    one, two = (split_question(call(messages=[{"role": "user", "content": text}])) for text in ("a", "b"))
    assert one is not None
    assert two is not None
    assert one[0] == two[0]
    assert (one[1], two[1]) == ("a", "b")
    earlier = [{"role": "user", "content": "before"}, {"role": "user", "content": "a"}]
    assert split_question(call(messages=earlier)) != one
    assert split_question(call(messages=[{"role": "assistant", "content": "a"}])) is None


def test_the_nearest_question_is_found_if_it_is_near_enough() -> None:
    index = SemanticIndex(0.9, 2)
    index.add(b"scope", [1.0, 0.0], b"one")
    index.add(b"scope", [0.0, 1.0], b"two")
    assert index.find(b"scope", [0.995, 0.0999]) == b"one"
    assert index.find(b"scope", [0.7071, 0.7071]) is None
    assert index.find(b"other", [1.0, 0.0]) is None
    index.add(b"scope", [-1.0, 0.0], b"three")
    assert index.find(b"scope", [1.0, 0.0]) is None, "the oldest was forgotten"
    assert cosine([1.0], [1.0, 0.0]) == 0


async def test_redis_keeps_answers_and_its_loss_is_no_failure() -> None:
    with redis_server() as server:
        store = RedisStore.from_url(server.url, 0.2, 1000, time.monotonic)
        assert await store.get(b"k") is None
        await store.put(b"k", b"v")
        assert await store.get(b"k") == b"v"
        await store.put(b"big", b"x" * 1001)
        assert await store.get(b"big") is None
        await asyncio.sleep(0.25)
        assert await store.get(b"k") is None, "too old"
        server.kill()
        await store.put(b"k", b"v")
        assert await store.get(b"k") is None
        await store.close()


async def test_not_every_request_waits_for_a_redis_that_hangs() -> None:
    structlog.reset_defaults()  # another test of this process may log errors only
    now = [0.0]
    with redis_server() as server, capture_logs() as logs:
        store = RedisStore.from_url(server.url, 60.0, 1000, lambda: now[0])
        await store.put(b"k", b"v")
        server.freeze()
        try:
            async with asyncio.timeout(5):  # each by itself would wait a quarter of a second
                for _ in range(100):
                    assert await store.get(b"k") is None
            assert "does not answer" in str(store.problem)
        finally:
            server.thaw()
        now[0] += 1.5
        assert await store.get(b"k") == b"v"
        assert store.problem is None
        await store.close()
    assert [log["log_level"] for log in logs] == ["warning", "info"]

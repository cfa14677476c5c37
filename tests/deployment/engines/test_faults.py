"""What callers see while nodes fail in every way we know: nothing, wherever another node could serve."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.deployment.engines.conftest import MakePool, Process, ask, chat, healthy, states, storm, until
from tests.support.fake_node import FakeNode

from deployment.engines import NodeState
from deployment.errors import EngineCrashed, EngineRefused, EngineUnavailable, RamseyError

BEFORE = [
    ("reset", {}),
    ("close", {}),
    ("hang", {}),
    ("error", {"status": 500}),
    ("error", {"status": 503}),
    ("busy", {}),
    ("crash", {}),
    ("garbage", {}),
    ("not_json", {}),
    ("empty", {"status": 500}),
    ("cut", {"after": 0}),
    ("missing", {}),
    ("lost_blob", {}),
]
WITHIN = ["reset", "hang", "error", "crash", "garbage", "not_json", "half_line", "cut"]
PATIENT_ENGINE = {"first_token_timeout": 3.0, "token_timeout": 3.0}
QUICK_ENGINE = {"first_token_timeout": 0.5, "token_timeout": 0.5}

both = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


def nodes(count: int = 3, **options: Any) -> list[FakeNode]:
    return [FakeNode(token_delay_s=0.001, tokens=6, **options) for _ in range(count)]


@both
@pytest.mark.parametrize(("kind", "fault"), BEFORE, ids=[f"{k}{f.get('status', '')}" for k, f in BEFORE])
async def test_a_fault_before_the_first_token_is_never_told(
    pool_over: MakePool, kind: str, fault: dict[str, Any], stream: bool
) -> None:
    sick, *well = nodes()
    engine = PATIENT_ENGINE if kind == "hang" else {}  # on a loaded machine the well nodes are slower than that, too
    async with sick, well[0], well[1], pool_over([sick, *well], engine=engine) as pool:
        sick.fail(kind, **fault)
        seen = await storm(pool, each=3, stream=stream)
        assert not seen.failed
        sick.heal()
        await until(lambda: healthy(pool))
        await until(lambda: _serves(pool, "a"))


async def _serves(pool: Any, name: str) -> bool:
    return (await storm(pool, clients=15, each=1)).served[name] > 0


@pytest.mark.parametrize("kind", WITHIN)
async def test_a_fault_within_a_stream_is_told_and_never_taken_for_an_answer(pool_over: MakePool, kind: str) -> None:
    sick, *well = nodes()
    async with sick, well[0], well[1], pool_over([sick, *well], engine=QUICK_ENGINE) as pool:
        sick.fail(kind, after=2)
        seen = await storm(pool, clients=30, each=3)
        assert seen.failed
        assert seen.failed.total() < 60  # the node is taken out; the others go on
        assert not any(code.startswith("internal") for code in seen.failed)
        sick.heal()
        await until(lambda: healthy(pool))


@pytest.mark.parametrize("kind", WITHIN)
async def test_without_a_stream_the_same_faults_are_never_told(pool_over: MakePool, kind: str) -> None:
    sick, *well = nodes()
    async with sick, well[0], well[1], pool_over([sick, *well], engine=QUICK_ENGINE) as pool:
        sick.fail(kind, after=2)
        assert not (await storm(pool, clients=30, each=3, stream=False)).failed


@both
async def test_a_node_that_refuses_connections_is_out_and_comes_back(pool_over: MakePool, stream: bool) -> None:
    a, b, c = nodes()
    async with a, b, c, pool_over([a, b, c]) as pool:
        running = asyncio.create_task(storm(pool, each=10, stream=stream))
        await asyncio.sleep(0.05)
        await a.refuse()
        seen = await running
        assert stream or not seen.failed
        assert seen.failed.keys() <= {"engine_stream_incomplete"}  # streams that had begun were cut
        await until(lambda: states(pool)["a"] is NodeState.OPEN)
        assert not (await storm(pool, each=1, stream=stream)).failed
        await a.accept()
        await until(lambda: healthy(pool, "a"))
        assert await _serves(pool, "a")


@both
async def test_two_of_three_gone(pool_over: MakePool, stream: bool) -> None:
    a, b, c = nodes()
    async with a, b, c, pool_over([a, b, c]) as pool:
        await a.refuse()
        b.fail("hang")
        b.fail("hang", path="/api/version")
        seen = await storm(pool, each=3, stream=stream)
        assert not seen.failed
        assert set(seen.served) == {"c"}


@both
async def test_all_gone_is_said_at_once_with_a_time_to_come_back(pool_over: MakePool, stream: bool) -> None:
    a, b, c = nodes()
    async with a, b, c, pool_over([a, b, c]) as pool:
        for node in (a, b, c):
            await node.refuse()
        seen = await storm(pool, each=1, stream=stream)
        assert seen.failed == {"engine_unavailable": 50}
        with pytest.raises(EngineUnavailable) as caught:
            await ask(pool, chat(stream=stream))
        assert caught.value.retry_after_s is not None
        await b.accept()
        await until(lambda: states(pool)["b"] is NodeState.HEALTHY)
        assert await ask(pool, chat(stream=stream)) == "b"


@both
async def test_a_killed_node_and_its_return(
    pool_over: MakePool, spawn: Callable[..., Awaitable[Process]], stream: bool
) -> None:
    options = {"token_delay_s": 0.002, "tokens": 6}
    killed, kept = await asyncio.gather(spawn(**options), spawn(**options))
    async with pool_over([killed.url, kept.url]) as pool:
        running = asyncio.create_task(storm(pool, each=8, stream=stream))
        await asyncio.sleep(0.1)
        await killed.kill()
        seen = await running
        assert seen.failed.keys() <= ({"engine_stream_incomplete"} if stream else set())
        assert not (await storm(pool, each=1, stream=stream)).failed
        await spawn(port=killed.port, **options)
        await until(lambda: healthy(pool))


@both
async def test_a_restarted_node_is_warmed_before_it_serves(pool_over: MakePool, stream: bool) -> None:
    slow, other = FakeNode(load_s=0.3), FakeNode()
    async with slow, other, pool_over([slow, other]) as pool:
        assert slow.stats()["loads"] == 1
        await slow.refuse()
        await until(lambda: states(pool)["a"] is NodeState.OPEN)
        slow.scheduler.runners.clear()  # a restart empties its memory
        await slow.accept()
        seen = await storm(pool, clients=10, each=2, stream=stream)
        assert not seen.failed
        await until(lambda: healthy(pool))
        assert slow.stats()["loads"] == 2
        assert slow.stats()["load_aborts"] == 0


async def test_an_unloaded_release_is_loaded_once_though_many_ask_and_leave(pool_over: MakePool) -> None:
    node = FakeNode(load_s=0.4)
    async with node, pool_over([node], warm=False, health_interval=60.0) as pool:
        await until(lambda: states(pool)["a"] is NodeState.HEALTHY)
        calls = [asyncio.create_task(ask(pool, chat())) for _ in range(5)]
        await asyncio.sleep(0.05)
        for call in calls[:4]:
            call.cancel()
        assert await calls[4] == "a"
        await asyncio.gather(*calls, return_exceptions=True)
        assert node.stats()["load_aborts"] == 0
        assert node.stats()["loads"] == 1
        assert node.requests["/api/generate"] == 1  # the load; one for all


@both
async def test_a_release_that_a_node_lost_is_asked_of_others_and_seen(pool_over: MakePool, stream: bool) -> None:
    a, b = nodes(2)
    async with a, b, pool_over([a, b]) as pool:
        a.store.models.clear()
        seen = await storm(pool, each=2, stream=stream)
        assert not seen.failed
        await until(lambda: not any(r.present for r in pool.show("a").releases))
        assert states(pool)["a"] is NodeState.HEALTHY
        assert await ask(pool, chat()) == "b"


async def test_the_caller_s_mistake_is_the_caller_s(pool_over: MakePool) -> None:
    a, b = nodes(2)
    async with a, b, pool_over([a, b]) as pool:
        for node in (a, b):
            node.fail("error", status=400, text="invalid options")
        for _ in range(10):
            with pytest.raises(EngineRefused):
                await ask(pool, chat())
        assert sum(node.requests["/api/chat"] for node in (a, b)) == 10
        assert set(states(pool).values()) == {NodeState.HEALTHY}


async def test_a_single_node_is_asked_again_when_its_runner_died(pool_over: MakePool) -> None:
    (only,) = nodes(1)
    async with only, pool_over([only]) as pool:
        only.fail("crash", times=1)
        assert await ask(pool, chat()) == "a"


async def test_a_grammar_that_ends_a_runner_does_not_go_through_the_pool(pool_over: MakePool) -> None:
    one, two = nodes(2)
    async with one, two, pool_over([one, two]) as pool:
        for node in (one, two):
            node.fail("crash", path="/api/chat")
        with pytest.raises(EngineCrashed):
            await ask(pool, chat(body={"format": {"type": "object"}}))
        assert sum(node.requests["/api/chat"] for node in (one, two)) == 1


async def test_the_caller_s_own_short_limit_does_not_count_against_the_node(pool_over: MakePool) -> None:
    node = FakeNode(token_delay_s=0.2)
    async with node, pool_over([node], health_interval=5.0) as pool:
        for _ in range(5):
            with pytest.raises(RamseyError) as caught:
                await ask(pool, chat(timeout_s=0.05))
            assert caught.value.code == "engine_timeout"
        assert states(pool)["a"] is NodeState.HEALTHY


async def test_a_node_that_failed_a_request_does_not_get_it_again(pool_over: MakePool) -> None:
    near, far = nodes(2)
    async with near, far:
        named = [
            {"name": "near", "url": near.url, "labels": {"region": "eu"}},
            {"name": "far", "url": far.url},
        ]
        async with pool_over([], members=named, region="eu", attempts=2, breaker_failures=1000) as pool:
            assert await ask(pool, chat()) == "near"
            near.fail("error", times=1000, path="/api/chat")
            assert await ask(pool, chat()) == "far"


async def test_who_waits_on_a_node_that_falls_silent_goes_elsewhere(pool_over: MakePool) -> None:
    near, far = nodes(2)
    async with near, far:
        named = [
            {"name": "near", "url": near.url, "labels": {"region": "eu"}},
            {"name": "far", "url": far.url},
        ]
        engine = {"first_token_timeout": 60.0}
        async with pool_over([], members=named, region="eu", engine=engine, health_timeout=0.3) as pool:
            near.fail("hang")
            near.fail("hang", path="/api/version")
            async with asyncio.timeout(10):
                assert await ask(pool, chat()) == "far"


async def test_a_node_whose_every_slot_hangs_is_out_though_no_stream_tells(pool_over: MakePool) -> None:
    """Short whole answers come in one piece, and a check would find no slot."""
    sick, well = nodes(2)
    async with sick, well, pool_over([sick, well], policy="round_robin") as pool:
        assert not (await storm(pool, clients=8, each=3, stream=False)).failed
        sick.fail("hang")
        running = asyncio.create_task(storm(pool, each=300, stream=False))
        await until(lambda: states(pool)["a"] is NodeState.OPEN)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_node_that_only_requests_find_broken_says_what_is_wrong(pool_over: MakePool) -> None:
    a, b = nodes(2)
    async with a, b, pool_over([a, b], policy="round_robin", breaker_backoff=60.0, breaker_max_backoff=60.0) as pool:
        a.fail("crash", path="/api/chat")  # a check asks another path
        assert not (await storm(pool, clients=4, each=3)).failed
        assert states(pool)["a"] is NodeState.OPEN
        assert "has unexpectedly stopped" in str(pool.show("a").problem)
        a.heal()
        await pool.check()
        assert (states(pool)["a"], pool.show("a").problem) == (NodeState.HEALTHY, None)


async def test_one_failed_request_makes_the_pool_look_at_the_node(pool_over: MakePool) -> None:
    a, b = nodes(2)
    async with a, b, pool_over([a, b], health_interval=60.0, policy="round_robin", breaker_failures=1000) as pool:
        await a.refuse()
        assert {await ask(pool, chat()) for _ in range(2)} == {"b"}
        await until(lambda: states(pool)["a"] is NodeState.OPEN, seconds=3.0)

"""Slots, queue, cancellation, members: what the pool promises to those who call it."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from tests.deployment.engines.conftest import (
    RELEASE,
    MakePool,
    ask,
    chat,
    healthy,
    settings,
    states,
    storm,
    until,
)
from tests.support.fake_node import FakeNode

from deployment.clock import SystemClock
from deployment.engines import EnginePool, NodeSpec, NodeState, Priority
from deployment.errors import EngineBusy, EngineUnavailable, InvalidRequest, NotFound, RateLimited
from deployment.ollama_client import Delta

ONE_SLOT: dict[str, Any] = {"look_ahead": 0, "engine": {"num_parallel": 1}}


def in_flight(pool: EnginePool) -> int:
    return sum(view.in_flight for view in pool.view())


async def test_no_node_ever_gets_more_than_its_slots_and_look_ahead(pool_over: MakePool) -> None:
    nodes = [FakeNode(token_delay_s=0.002, tokens=4) for _ in range(2)]
    async with nodes[0], nodes[1], pool_over(nodes, engine={"num_parallel": 3}) as pool:
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, *(view.in_flight for view in pool.view()))
                await asyncio.sleep(0)

        watcher = asyncio.create_task(watch())
        assert not (await storm(pool, clients=40, each=5)).failed
        watcher.cancel()
        assert most == 4
        await until(lambda: in_flight(pool) == 0)


async def test_an_answer_says_where_and_when(pool_over: MakePool) -> None:
    async with FakeNode(token_delay_s=0.01) as node, pool_over([node]) as pool:
        answer = await pool.open(chat())
        assert (answer.node, answer.release, answer.attempts) == ("a", RELEASE, 1)
        assert answer.first_event_ms >= 9
        assert answer.queue_ms < answer.first_event_ms
        assert isinstance(await anext(aiter(answer)), Delta)
        await answer.aclose()
        await answer.aclose()
        assert in_flight(pool) == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_the_node_gets_our_release_and_keep_alive_and_nothing_else_changes(
    pool_over: MakePool, stream: bool
) -> None:
    async with FakeNode() as node, pool_over([node]) as pool:
        await ask(pool, chat("Hi", stream=stream, body={"options": {"seed": 1}, "keep_alive": 0}))
        body = next(body for path, body in node.bodies if path == "/api/chat")
        assert body["model"] == RELEASE
        assert body["keep_alive"] == -1
        assert body["options"] == {"seed": 1}
        assert body["messages"] == [{"role": "user", "content": "Hi"}]


# --- the queue ---------------------------------------------------------------------------------------------


async def test_a_full_queue_refuses_with_a_time_that_is_about_right(pool_over: MakePool) -> None:
    async with (
        FakeNode(slots=1, token_delay_s=0.05, tokens=2) as node,
        pool_over([node], queue_size=4, **ONE_SLOT) as pool,
    ):
        for _ in range(4):
            await ask(pool, chat())
        calls = [asyncio.create_task(ask(pool, chat())) for _ in range(5)]
        await until(lambda: pool.waiting() == 4)
        with pytest.raises(RateLimited) as caught:
            await ask(pool, chat())
        assert caught.value.retry_after_s is not None
        assert 0.2 < caught.value.retry_after_s < 5.0  # five answers of 0.1 s, on a noisy machine
        assert await asyncio.gather(*calls) == ["a"] * 5


async def test_who_waits_too_long_is_told_so_and_when_to_come_back(pool_over: MakePool) -> None:
    async with FakeNode(slots=1, token_delay_s=5.0) as node:
        engine = {"num_parallel": 1, "first_token_timeout": 20.0}
        async with pool_over([node], queue_timeout=0.1, look_ahead=0, engine=engine, warm=False) as pool:
            first = asyncio.create_task(ask(pool, chat()))
            await until(lambda: in_flight(pool) == 1)
            with pytest.raises(EngineBusy) as caught:
                await ask(pool, chat())
            assert caught.value.retry_after_s
            assert pool.waiting() == 0
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)


async def test_interactive_goes_before_batch(pool_over: MakePool) -> None:
    async with FakeNode(slots=1, token_delay_s=0.005, tokens=2) as node, pool_over([node], **ONE_SLOT) as pool:
        order: list[str] = []

        async def call(name: Priority) -> None:
            await ask(pool, chat(priority=name))
            order.append(name.value)

        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(call(Priority.BATCH))
            await asyncio.sleep(0)
            for _ in range(5):
                group.create_task(call(Priority.INTERACTIVE))
        # The first batch request had the slot already; one more may have been sent after it.
        assert order.index("interactive") <= 1
        assert order[-4:] == ["batch"] * 4


async def test_a_tenant_with_a_hundred_requests_does_not_delay_another(pool_over: MakePool) -> None:
    """The other's wait stays about one service time: it never stands behind the hundred."""
    async with (
        FakeNode(slots=2, token_delay_s=0.004, tokens=5) as node,
        pool_over([node], look_ahead=0, engine={"num_parallel": 2}) as pool,
    ):
        flood = [asyncio.create_task(ask(pool, chat("x" * 400, tenant="large"))) for _ in range(100)]
        await until(lambda: pool.waiting() > 90)
        before: list[int] = []
        for _ in range(8):
            left = sum(not task.done() for task in flood)
            await ask(pool, chat(tenant="small"))
            before.append(left - sum(not task.done() for task in flood))
        # While the small one waited and was served, at most a few of the large one's requests came through.
        assert max(before) <= 6, before
        assert sum(before) / len(before) <= 4.5
        await asyncio.gather(*flood)


async def test_tenants_pay_for_the_tokens_that_came_not_for_those_foreseen(pool_over: MakePool) -> None:
    """Both look the same beforehand; one gets answers of 4 tokens, the other of 13, and so fewer of them."""
    async with FakeNode(slots=1) as node, pool_over([node], **ONE_SLOT) as pool:
        served = {"short": 0, "long": 0}

        async def client(tenant: str, body: dict[str, Any]) -> None:
            while sum(served.values()) < 120:
                await ask(pool, chat(tenant=tenant, body=body))
                served[tenant] += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(client("short", {"format": "json"}))
                group.create_task(client("long", {}))
        assert served["short"] > 1.5 * served["long"], served


# --- cancellation --------------------------------------------------------------------------------------------


async def cancelled(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_leaving_the_queue_frees_the_place(pool_over: MakePool) -> None:
    async with FakeNode(slots=1, token_delay_s=0.1, tokens=2) as node, pool_over([node], **ONE_SLOT) as pool:
        first = asyncio.create_task(ask(pool, chat()))
        second = asyncio.create_task(ask(pool, chat()))
        third = asyncio.create_task(ask(pool, chat()))
        await until(lambda: pool.waiting() == 2)
        await cancelled(second)
        assert pool.waiting() == 1
        assert await first == await third == "a"


@pytest.mark.parametrize("after", [0.0, 0.001, 0.02, 0.1, 0.25])
@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_at_any_moment_frees_the_slot_once_and_blames_nobody(
    pool_over: MakePool, after: float, stream: bool
) -> None:
    async with (
        FakeNode(slots=2, token_delay_s=0.05, tokens=6) as node,
        pool_over([node], look_ahead=0, engine={"num_parallel": 2}, breaker_failures=1) as pool,
    ):
        calls = [asyncio.create_task(ask(pool, chat(stream=stream))) for _ in range(6)]
        await asyncio.sleep(after)
        for call in calls:
            await cancelled(call)
        await until(lambda: in_flight(pool) == 0)
        assert pool.waiting() == 0
        assert states(pool)["a"] is NodeState.HEALTHY
        assert await ask(pool, chat(stream=stream)) == "a"


async def test_leaving_in_the_very_moment_in_which_the_slot_comes(pool_over: MakePool) -> None:
    async with FakeNode(slots=1, tokens=1000, token_delay_s=0.01) as node, pool_over([node], **ONE_SLOT) as pool:
        answer = await pool.open(chat())
        second = asyncio.create_task(ask(pool, chat()))
        await until(lambda: pool.waiting() == 1)
        await answer.aclose()
        assert (pool.waiting(), in_flight(pool)) == (0, 1)  # the slot is the second's, who does not know it yet
        await cancelled(second)
        assert in_flight(pool) == 0


async def test_leaving_while_connecting(pool_over: MakePool) -> None:
    async with FakeNode() as node, pool_over([node]) as pool:
        node.fail("hang")
        call = asyncio.create_task(ask(pool, chat()))
        await until(lambda: in_flight(pool) >= 1)
        await cancelled(call)
        node.heal()
        assert await ask(pool, chat()) == "a"


async def test_giving_up_an_answer_cancels_it_on_the_node(pool_over: MakePool) -> None:
    async with FakeNode(token_delay_s=0.05, tokens=1000) as node, pool_over([node], health_interval=60.0) as pool:
        answer = await pool.open(chat())
        await anext(aiter(answer))
        await answer.aclose()
        assert in_flight(pool) == 0
        await until(lambda: node.connections() <= 1)
        await until(lambda: all(runner.in_use == 0 for runner in node.scheduler.runners.values()))


# --- members ---------------------------------------------------------------------------------------------------


async def test_draining_lets_streams_end_and_takes_no_new_work(pool_over: MakePool) -> None:
    a, b = FakeNode(token_delay_s=0.03, tokens=6), FakeNode()
    async with a, b, pool_over([a, b]) as pool:
        await pool.drain("b")
        answer = await pool.open(chat())
        assert answer.node == "a"
        await pool.drain("a")
        await pool.drain("b", draining=False)
        assert [await ask(pool, chat()) for _ in range(3)] == ["b"] * 3
        assert not await pool.drained("a", 0.0)
        assert len([event async for event in answer]) > 3
        await answer.aclose()
        assert await pool.drained("a", 5.0)
        assert states(pool) == {"a": NodeState.DRAINING, "b": NodeState.HEALTHY}


async def test_a_node_that_was_restarted_while_drained_is_loaded_before_it_is_used(pool_over: MakePool) -> None:
    async with FakeNode(load_s=0.2) as node, pool_over([node], health_interval=60.0) as pool:
        await pool.drain("a")
        node.scheduler.runners.clear()
        await pool.drain("a", draining=False)
        call = asyncio.create_task(ask(pool, chat()))
        await asyncio.sleep(0.05)
        await cancelled(call)
        assert await ask(pool, chat()) == "a"
        assert (node.stats()["loads"], node.stats()["load_aborts"]) == (2, 0)


async def test_with_all_nodes_drained_requests_wait_for_one(pool_over: MakePool) -> None:
    async with FakeNode() as node, pool_over([node]) as pool:
        await pool.drain("a")
        call = asyncio.create_task(ask(pool, chat()))
        await until(lambda: pool.waiting() == 1)
        await pool.drain("a", draining=False)
        assert await call == "a"


async def test_members_change_at_run_time_and_stay_after_a_restart(tmp_path: Path) -> None:
    async with FakeNode() as a, FakeNode() as b:
        made = settings(tmp_path, [a.url], {})
        spec = NodeSpec("new", b.url, 4, labels={"region": "eu"}, source="admin")
        async with EnginePool(made, SystemClock(), CollectorRegistry()) as pool:
            assert (await pool.add(spec)).url == b.url
            with pytest.raises(InvalidRequest, match="in the pool already"):
                await pool.add(spec)
            await pool.drain("new")
            await pool.remove("a")
            with pytest.raises(NotFound):
                pool.show("a")
        async with EnginePool(made, SystemClock(), CollectorRegistry()) as pool:
            assert states(pool) == {"new": NodeState.DRAINING}
            assert pool.show("new").labels == {"region": "eu"}


async def test_a_pool_without_nodes_says_what_to_do(pool_over: MakePool) -> None:
    async with pool_over([], dns=["localhost:1"], warm=False) as pool:
        await pool.remove("127.0.0.1:1") if states(pool) else None
        await until(lambda: not any(s is NodeState.UNKNOWN for s in states(pool).values()))
    async with FakeNode() as node, pool_over([node], warm=False) as pool:
        await pool.remove("a")
        with pytest.raises(EngineUnavailable, match="no node"):
            await ask(pool, chat())


async def test_three_nodes_roll_under_load_without_a_failure(pool_over: MakePool) -> None:
    nodes = [FakeNode() for _ in range(3)]
    async with nodes[0], nodes[1], nodes[2], pool_over(nodes, engine={"num_parallel": 8}) as pool:
        running = asyncio.create_task(storm(pool, clients=50, each=60))
        for name, node in zip("abc", nodes, strict=True):
            await pool.drain(name)
            assert await pool.drained(name, 10.0)
            await node.refuse()
            node.scheduler.runners.clear()
            await until(lambda name=name: pool.show(name).problem is not None)  # type: ignore[misc]
            await node.accept()
            await pool.drain(name, draining=False)
            await until(lambda name=name: healthy(pool, name))  # type: ignore[misc]
        seen = await running
        assert not seen.failed
        assert seen.served.total() == 3000
        assert set(seen.served) == {"a", "b", "c"}


# --- the rest ----------------------------------------------------------------------------------------------------


async def test_what_is_not_generated_fails_over_too(pool_over: MakePool) -> None:
    a, b = FakeNode(), FakeNode()
    async with a, b, pool_over([a, b]) as pool:
        a.fail("crash")
        a.fail("busy", path="/api/show")
        for _ in range(4):
            answer = await pool.request("/api/embed", RELEASE, {"input": "x"})
            assert len(answer["embeddings"]) == 1
        assert "details" in await pool.request("/api/show", RELEASE, {})


async def test_what_takes_no_slot_does_not_wait_for_one(pool_over: MakePool) -> None:
    async with (
        FakeNode(slots=1, token_delay_s=5.0) as node,
        pool_over([node], engine={"num_parallel": 1}, look_ahead=0, warm=False) as pool,
    ):
        call = asyncio.create_task(ask(pool, chat()))
        await until(lambda: in_flight(pool) == 1)
        assert "details" in await pool.request("/api/show", RELEASE, {})
        await cancelled(call)


async def test_a_node_that_comes_up_late_is_used_at_once(pool_over: MakePool) -> None:
    node = FakeNode()
    async with node:
        await node.refuse()
        async with pool_over([node.url], warm=False, breaker_backoff=60.0, breaker_max_backoff=60.0) as pool:
            await until(lambda: states(pool)["a"] is NodeState.UNHEALTHY)
            await node.accept()
            await until(lambda: states(pool)["a"] is NodeState.HEALTHY)
            assert await ask(pool, chat()) == "a"


async def test_a_check_on_request_does_not_wait_for_the_back_off(pool_over: MakePool) -> None:
    async with FakeNode() as node, pool_over([node], breaker_backoff=60.0, breaker_max_backoff=60.0) as pool:
        await node.refuse()
        await until(lambda: states(pool)["a"] is NodeState.OPEN)
        await node.accept()
        await pool.check()
        assert states(pool)["a"] is NodeState.HEALTHY


async def test_models_of_all_nodes_are_listed_once(pool_over: MakePool) -> None:
    a, b = FakeNode([RELEASE, "only:a"]), FakeNode([RELEASE, "only:b"])
    async with a, b, pool_over([a, b]) as pool:
        assert sorted(row["name"] for row in await pool.tags()) == ["only:a", "only:b", RELEASE]
        await pool.check()
        assert [row["name"] for row in await pool.ps()] == [RELEASE]


async def test_a_node_with_another_model_under_the_name_does_not_serve(pool_over: MakePool) -> None:
    good, odd = FakeNode(), FakeNode()
    async with good, odd, pool_over([good, odd], warm=False) as pool:
        await pool.check()
        digest = next(row["digest"] for row in await pool.tags() if row["name"] == RELEASE)
        pool.expect({RELEASE: digest})
        await pool.check()
        assert set(states(pool).values()) == {NodeState.HEALTHY}
        pool.expect({RELEASE: "0" * 64})
        await pool.check()
        assert set(states(pool).values()) == {NodeState.UNHEALTHY}
        assert "another model" in (pool.show("a").problem or "")


async def test_a_release_is_loaded_and_served_only_where_it_belongs(pool_over: MakePool) -> None:
    blue, green = FakeNode(), FakeNode()
    async with blue, green:
        members = [
            {"name": "a", "url": blue.url, "labels": {"colour": "blue", "region": "eu"}},
            {"name": "b", "url": green.url, "labels": {"colour": "green"}},
        ]
        async with pool_over([], members=members, warm=False) as pool:
            pool.expect({RELEASE: None}, {RELEASE: {"colour": "blue"}})
            await pool.check()
            assert {await ask(pool, chat()) for _ in range(5)} == {"a"}
            assert green.stats()["loads"] == 0
            pool.expect({RELEASE: None})
            await until(lambda: green.stats()["loads"] == 1)


async def test_a_node_of_another_version_does_not_serve(pool_over: MakePool) -> None:
    old, new = FakeNode(version="0.20.0"), FakeNode(version="0.33.0")
    async with old, new, pool_over([old, new], engine_version="0.33.0", warm=False) as pool:
        await pool.check()
        assert states(pool) == {"a": NodeState.UNHEALTHY, "b": NodeState.HEALTHY}
        assert {await ask(pool, chat()) for _ in range(5)} == {"b"}


async def test_a_hung_node_delays_no_other_s_check(pool_over: MakePool) -> None:
    hung, well = FakeNode(), FakeNode()
    async with hung, well, pool_over([hung, well], health_timeout=30.0) as pool:
        hung.fail("hang", path="/api/version")
        hung.fail("hang", path="/api/tags")
        checked = pool.show("b").checked_at
        await until(lambda: (pool.show("b").checked_at or checked) != checked)


async def test_a_conversation_returns_to_its_node(pool_over: MakePool) -> None:
    nodes = [FakeNode() for _ in range(3)]
    async with nodes[0], nodes[1], nodes[2], pool_over(nodes) as pool:
        homes = []
        for number in range(6):
            text = f"Conversation {number}. " * 40
            turns = [await ask(pool, chat(text + "more " * turn)) for turn in range(4)]
            homes.append(turns)
        assert sum(len(set(turns)) == 1 for turns in homes) >= 5


async def test_a_late_first_token_is_asked_of_a_second_node(pool_over: MakePool) -> None:
    registry = CollectorRegistry()
    a, b = FakeNode(), FakeNode()
    async with a, b, pool_over([a, b], hedge_share=0.5, policy="round_robin", registry=registry) as pool:
        await storm(pool, clients=4, each=15)
        a.fail("slow", seconds=0.6)
        seen = await storm(pool, clients=1, each=6)
        assert not seen.failed
        assert seen.served["b"] > seen.served["a"]
        await until(lambda: in_flight(pool) == 0)
    assert registry.get_sample_value("ramsey_node_hedges_total", {"node": "a", "release": RELEASE, "won": "yes"})


async def test_metrics_tell_what_happened(pool_over: MakePool) -> None:
    registry = CollectorRegistry()
    a, b = FakeNode(), FakeNode()
    async with a, b, pool_over([a, b], registry=registry, policy="round_robin") as pool:
        a.fail("crash", times=1)
        assert not (await storm(pool, clients=3, each=4)).failed
        text = generate_latest(registry).decode()
    value: Callable[..., float | None] = registry.get_sample_value
    crashed = {"node": "a", "release": RELEASE, "outcome": "engine_crashed"}
    assert value("ramsey_node_requests_total", crashed) == 1
    assert value("ramsey_node_retries_total", {"node": "a", "release": RELEASE}) == 1
    assert value("ramsey_node_loads_total", {"node": "b", "release": RELEASE, "outcome": "ok"}) == 1
    for name in ("state", "slots", "in_flight", "loaded", "first_token_seconds_bucket"):
        assert f"ramsey_node_{name}" in text
    assert "ramsey_queue_depth" in text


async def test_closing_fails_who_waits(tmp_path: Path) -> None:
    async with FakeNode() as node:
        pool = EnginePool(settings(tmp_path, [node.url], {}), SystemClock(), CollectorRegistry())
        await pool.start()
        await pool.drain("a")
        call = asyncio.create_task(ask(pool, chat()))
        await until(lambda: pool.waiting() == 1)
        await pool.close()
        with pytest.raises(EngineUnavailable, match="stops"):
            await call

"""Loads and unloads that hang: seen, told, and nobody waits for them."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry
from tests.deployment.engines.conftest import RELEASE, MakePool, chat, healthy, states, storm, until
from tests.support.fake_node import FakeNode

from deployment.engines import NodeState
from deployment.errors import EngineTimeout


async def test_a_load_that_hangs_is_given_up_and_others_serve(pool_over: MakePool) -> None:
    registry = CollectorRegistry()
    stuck, well = FakeNode(load_s=60.0), FakeNode()
    async with stuck, well, pool_over([stuck, well], warm=False, load_timeout=0.3, registry=registry) as pool:
        pool.expect({RELEASE: None})
        await until(lambda: healthy(pool, "b"))
        seen = await storm(pool, clients=20, each=3)
        assert not seen.failed
        assert set(seen.served) == {"b"}
        labels = {"node": "a", "release": RELEASE, "outcome": "engine_timeout"}
        await until(lambda: bool(registry.get_sample_value("ramsey_node_loads_total", labels)))
        await until(lambda: states(pool)["a"] is NodeState.OPEN)
        error = (await pool.load(RELEASE, ["a"]))["a"]
        assert error is not None
        assert error.message == f"{RELEASE} was not loaded within 0.3 s."


async def test_an_unload_that_hangs_is_told_with_the_node_and_what_to_do(pool_over: MakePool) -> None:
    async with FakeNode(token_delay_s=0.01, tokens=100_000) as node, pool_over([node], load_timeout=0.3) as pool:
        answer = await pool.open(chat())
        async with asyncio.timeout(5):
            with pytest.raises(EngineTimeout, match=f"a did not unload {RELEASE}") as caught:
                await pool.unload(RELEASE)
        assert "restart" in (caught.value.hint or "")
        await answer.aclose()
        await pool.unload(RELEASE)
        assert not node.scheduler.runners


async def test_what_was_unloaded_stays_so_until_it_is_asked_for(pool_over: MakePool) -> None:
    async with FakeNode() as node, pool_over([node]) as pool:
        await pool.unload(RELEASE)
        await pool.check()
        assert not any(each.loaded for each in pool.show("a").releases)
        assert not (await storm(pool, clients=3, each=1)).failed
        assert any(each.loaded for each in pool.show("a").releases)

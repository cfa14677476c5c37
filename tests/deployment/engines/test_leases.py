"""Gateways that share nodes never overfill one, and each comes to its part."""

import asyncio
import random
from collections.abc import Iterator
from importlib import resources
from typing import Any

import pytest
from redis import Redis
from tests.deployment.engines.conftest import MakePool, chat, storm, until
from tests.support.fake_node import FakeNode
from tests.support.redis_server import RedisServer, redis_server

from deployment.engines.leases import Part, part_alone


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


class Gateway:
    """One gateway's book for one node, against the real script."""

    def __init__(self, name: str, redis: Redis, slots: int, turn_ms: int = 0) -> None:
        self.name, self.slots, self.turn_ms = name, slots, turn_ms
        self.part = Part(slots, 0)
        self.in_use = self.waiting = 0
        self._script = redis.register_script(resources.files("deployment.engines").joinpath("share.lua").read_text())

    def sync(self, ttl_ms: int = 60_000) -> None:
        want = min(self.slots, self.in_use + self.waiting)
        keep = self.part.keep(self.in_use)
        args: list[str | int] = [self.name, ttl_ms, self.turn_ms, "node", self.slots, keep, want]
        self.part.grant, self.part.wish = map(int, self._script(keys=["k"], args=args))

    def admit(self) -> None:
        while self.waiting and self.in_use < self.part.share:
            self.in_use, self.waiting = self.in_use + 1, self.waiting - 1


@pytest.mark.parametrize("slots", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("seed", range(4))
def test_together_they_never_hold_more_than_there_is(server: RedisServer, slots: int, seed: int) -> None:
    rng = random.Random(seed)
    redis = Redis.from_url(server.url)
    redis.flushall()
    gateways = [Gateway(f"g{n}", redis, slots) for n in range(3)]
    for _ in range(400):
        gateway = rng.choice(gateways)
        match rng.choice(["come", "end", "sync", "sync"]):
            case "come":
                gateway.waiting += rng.randint(1, 3)
            case "end" if gateway.in_use:
                gateway.in_use -= 1
            case _:
                gateway.sync()
        gateway.admit()
        assert sum(g.in_use for g in gateways) <= slots
        assert sum(g.part.keep(g.in_use) for g in gateways) <= slots
        assert all(g.in_use >= 0 for g in gateways)


@pytest.mark.parametrize(("slots", "parts"), [(4, [2, 2]), (5, [2, 3]), (8, [4, 4])])
def test_who_came_late_gets_a_fair_part(server: RedisServer, slots: int, parts: list[int]) -> None:
    redis = Redis.from_url(server.url)
    redis.flushall()
    first, second = (Gateway(name, redis, slots) for name in "ab")
    first.waiting = 1000
    first.sync()
    first.admit()
    assert first.in_use == slots  # alone it has all
    second.waiting = 1000
    for _ in range(6):
        for gateway in (second, first):
            gateway.sync()
            gateway.admit()
            gateway.in_use = min(gateway.in_use, gateway.part.share)  # what is over its part ends
    assert sorted([first.in_use, second.in_use]) == parts


def test_fewer_slots_than_gateways_go_around(server: RedisServer) -> None:
    redis = Redis.from_url(server.url)
    redis.flushall()
    gateways = [Gateway(name, redis, 1) for name in "abc"]
    served = dict.fromkeys("abc", 0)
    for _ in range(60):
        for gateway in gateways:
            gateway.waiting = 5
            gateway.sync()
            gateway.admit()
            assert sum(g.in_use for g in gateways) <= 1
            served[gateway.name] += gateway.in_use
            gateway.in_use = 0
    assert min(served.values()) >= 5
    assert max(served.values()) - min(served.values()) <= 2


def test_a_gateway_that_dies_leaves_its_part_to_the_others(server: RedisServer) -> None:
    redis = Redis.from_url(server.url)
    redis.flushall()
    dead, alive = (Gateway(name, redis, 4) for name in "ab")
    dead.waiting = alive.waiting = 10
    dead.sync(ttl_ms=1)
    assert dead.part.grant == 4
    for _ in range(1000):
        alive.sync()
    assert alive.part.share == 4


def test_alone_each_takes_its_part() -> None:
    assert [part_alone(slots, 3) for slots in (1, 3, 4, 8)] == [1, 1, 1, 2]


async def test_two_gateways_over_one_node(pool_over: MakePool, server: RedisServer) -> None:
    Redis.from_url(server.url).flushall()
    shared: dict[str, Any] = {
        "look_ahead": 0,
        "redis_url": server.url,
        "replicas": 2,
        "lease_seconds": 1.0,
        "engine": {"num_parallel": 4},
    }
    async with (
        FakeNode(slots=64, token_delay_s=0.002, tokens=3) as node,
        pool_over([node.url], **shared) as one,
        pool_over([node.url], **shared) as other,
    ):
        await until(lambda: bool(one.slots_shared and other.slots_shared))
        most, running = 0, True

        async def watch() -> None:
            nonlocal most
            while running:
                most = max(most, one.show("a").in_flight + other.show("a").in_flight)
                await asyncio.sleep(0)

        watcher = asyncio.create_task(watch())
        seen = await asyncio.gather(storm(one, clients=12, each=8), storm(other, clients=12, each=8))
        running = False
        await watcher
        assert not any(storm.failed for storm in seen)
        assert most == 4


async def test_without_redis_each_keeps_to_its_part_and_says_so(pool_over: MakePool) -> None:
    with redis_server() as own:
        shared = {"redis_url": own.url, "replicas": 2, "lease_seconds": 1.0, "engine": {"num_parallel": 4}}
        async with FakeNode() as node, pool_over([node], **shared) as pool:
            await until(lambda: pool.slots_shared is True and pool.show("a").share == 4)
            own.kill()
            assert not (await storm(pool, clients=10, each=3)).failed
            await until(lambda: pool.slots_shared is False)
            assert pool.show("a").share == 2
            assert not (await storm(pool, clients=10, each=3)).failed
            own.start()
            await until(lambda: pool.slots_shared is True and pool.show("a").share == 4)
            assert not (await storm(pool, clients=5, each=1)).failed


async def test_requests_never_wait_for_redis(pool_over: MakePool) -> None:
    """A Redis that accepts and says nothing delays nobody."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    mute = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"redis://127.0.0.1:{mute.sockets[0].getsockname()[1]}"
    async with FakeNode() as node, pool_over([node], redis_url=url, engine={"num_parallel": 4}) as pool:
        async with asyncio.timeout(5):
            assert not (await storm(pool, clients=10, each=2)).failed
            answer = await pool.open(chat())
            await answer.aclose()
    mute.close()
    await mute.wait_closed()


async def test_redis_that_dies_in_the_middle_fails_no_request_of_two_gateways(pool_over: MakePool) -> None:
    with redis_server() as own:
        shared: dict[str, Any] = {"redis_url": own.url, "replicas": 2, "lease_seconds": 1.0, "look_ahead": 0}
        shared["engine"] = {"num_parallel": 4}
        async with (
            FakeNode(slots=64, token_delay_s=0.002, tokens=3) as node,
            pool_over([node.url], **shared) as one,
            pool_over([node.url], **shared) as other,
        ):
            await until(lambda: bool(one.slots_shared and other.slots_shared))
            storms = [asyncio.create_task(storm(pool, clients=12, each=12)) for pool in (one, other)]
            await asyncio.sleep(0.1)
            own.kill()
            assert not any(seen.failed for seen in await asyncio.gather(*storms))
            await until(lambda: one.slots_shared is False and other.slots_shared is False)
            assert one.show("a").share + other.show("a").share == 4

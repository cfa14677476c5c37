import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass

import pytest
from redis.asyncio import Redis
from tests.support.held_clock import HeldClock
from tests.support.redis_server import RedisServer, redis_server

from deployment.access.limits import MemoryCounters, SharedCounters
from deployment.access.limits import shared as shared_module
from deployment.access.limits.model import Counters


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@dataclass
class Counted:
    """Counters whose time the test moves."""

    counters: Counters
    clock: HeldClock
    advance: Callable[[float], Awaitable[None]]
    settled: Callable[[], Awaitable[None]]
    """Wait until what is being given back has arrived."""


@pytest.fixture(params=["memory", "redis"])
async def counted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Counted]:
    clock = HeldClock()
    if request.param == "memory":

        async def advance(seconds: float) -> None:
            clock.advance(seconds)

        async def at_once() -> None:
            return None

        yield Counted(MemoryCounters(clock), clock, advance, at_once)
        return
    server: RedisServer = request.getfixturevalue("redis")
    client = Redis.from_url(server.url)
    await client.flushall()

    async def advance_redis(seconds: float) -> None:
        clock.advance(seconds)
        await client.set("now", int(clock.monotonic() * 1_000_000))

    await advance_redis(0)
    held_time = "local us = tonumber(redis.call('GET', 'now')); local time = { math.floor(us / 1e6), us % 1e6 }"
    script = shared_module._script
    monkeypatch.setattr(
        shared_module, "_script", lambda name: script(name).replace("local time = redis.call('TIME')", held_time)
    )
    counters = SharedCounters.at(server.url, 1, 600.0, clock)

    async def settled() -> None:
        while counters._returning:
            await asyncio.gather(*counters._returning)

    yield Counted(counters, clock, advance_redis, settled)
    await counters.close()
    await client.aclose()

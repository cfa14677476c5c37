"""Two gateways as processes share limits in Redis, asked over HTTP: never passed by one, never kept for nothing."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis
from tests.support.cluster import Cluster, cluster
from tests.support.redis_server import RedisServer

ASKED = 200
MOST_S = 50.0  # within it nothing of a minute comes back
FAILING = {"kind": "error", "probability": 0.4}


@dataclass
class Asked:
    """What callers got."""

    statuses: "Counter[int]" = field(default_factory=Counter)
    used: int = 0
    """Tokens of the answers, as the node counted them."""

    @property
    def served(self) -> int:
        return self.statuses[200]


@asynccontextmanager
async def two_gateways(folder: Path, redis: RedisServer, limits: str) -> AsyncIterator[Cluster]:
    client = Redis.from_url(redis.url)
    await client.flushall()
    await client.aclose()
    async with cluster(
        folder,
        nodes=1,
        RAMSEY_LIMITS__REDIS_URL=redis.url,
        RAMSEY_LIMITS__GATEWAYS="2",
        RAMSEY_LIMITS__KEY=limits,
        RAMSEY_POOL__ATTEMPTS="1",
        RAMSEY_POOL__BREAKER_FAILURES="100000",
        RAMSEY_POOL__BREAKER_RATIO="1",
        RAMSEY_LOG__LEVEL="error",
    ) as running:
        yield running


async def ask(http: httpx.AsyncClient, asked: Asked, tokens: int = 1) -> int:
    body = {"model": "ramsey-model", "prompt": "Hello", "stream": False, "options": {"num_predict": tokens}}
    answer = await http.post("/api/generate", json=body, timeout=60)
    asked.statuses[answer.status_code] += 1
    if answer.status_code == 200:
        done = answer.json()
        asked.used += done["prompt_eval_count"] + done["eval_count"]
    if answer.status_code == 429:
        assert "The limit of" in answer.text or "are left" in answer.text, answer.text
        assert int(answer.headers["retry-after"]) > 0
    return answer.status_code


async def ask_all(running: Cluster, count: int, tokens: int = 1) -> Asked:
    """So many at once, every second one of the other gateway."""
    asked = Asked()
    await asyncio.gather(*(ask(running.http[number % 2], asked, tokens) for number in range(count)))
    return asked


async def insist(running: Cluster, tokens: int, enough: Callable[[Asked], bool]) -> Asked:
    """All callers at once, and again when they are refused or the node fails, until there was enough."""
    asked, end = Asked(), time.monotonic() + MOST_S

    async def caller(number: int) -> None:
        while not enough(asked):
            assert time.monotonic() < end, asked
            if await ask(running.http[number % 2], asked, tokens) == 200:
                return
            await asyncio.sleep(0.1)

    await asyncio.gather(*(caller(number) for number in range(ASKED)))
    return asked


async def fault(running: Cluster, *faults: dict[str, Any]) -> None:
    async with httpx.AsyncClient() as http:
        (await http.post(running.nodes[0].url + "/_fake/faults", json=list(faults))).raise_for_status()


async def test_of_200_at_once_exactly_50_pass_a_limit_of_50_requests(tmp_path: Path, redis: RedisServer) -> None:
    async with two_gateways(tmp_path, redis, '{"requests_per_minute": 50}') as running:
        asked = await ask_all(running, ASKED)
    assert asked.statuses == {200: 50, 429: 150}


async def test_requests_that_the_node_failed_are_given_back(tmp_path: Path, redis: RedisServer) -> None:
    async with two_gateways(tmp_path, redis, '{"requests_per_minute": 50}') as running:
        await fault(running, FAILING)
        asked = await insist(running, 1, lambda asked: asked.served >= 50)
        await fault(running)
        late = await ask_all(running, 20)
    assert asked.statuses[200] == 50
    assert sum(asked.statuses.values()) - asked.statuses[200] - asked.statuses[429] > 10, "the node did not fail"
    assert late.statuses == {429: 20}


@pytest.mark.parametrize("faults", [[], [FAILING]], ids=["a sound node", "a failing node"])
async def test_no_token_beyond_the_limit_and_what_was_not_used_comes_back(
    tmp_path: Path, redis: RedisServer, faults: list[dict[str, Any]]
) -> None:
    tokens = 4
    reserved, used = len("Hello") + 2 * 16 + tokens, 1 + tokens  # before the work, and by it
    most = 1 + (100 - reserved) // used
    assert most * used + reserved == 101, "one more would pass the limit by one token"
    async with two_gateways(tmp_path, redis, '{"tokens_per_minute": 100}') as running:
        await fault(running, *faults)
        asked = await insist(running, tokens, lambda asked: asked.served >= most)
        await fault(running)
        late = await ask_all(running, 20, tokens)
    assert (asked.served, asked.used) == (most, most * used)
    assert late.statuses == {429: 20}


@pytest.mark.parametrize("gone", ["killed", "hanging"])
async def test_without_redis_each_gateway_gives_its_share_and_nobody_waits(
    tmp_path: Path, redis: RedisServer, gone: str
) -> None:
    async with two_gateways(tmp_path, redis, '{"requests_per_minute": 50}') as running:
        before = await ask_all(running, 40)
        assert before.statuses == {200: 40}
        asked = Asked()
        callers = [asyncio.create_task(ask(running.http[number % 2], asked)) for number in range(ASKED)]
        while sum(asked.statuses.values()) < 20:
            await asyncio.sleep(0.001)
        redis.kill() if gone == "killed" else redis.freeze()
        try:
            await asyncio.gather(*callers)
            assert set(asked.statuses) == {200, 429}
            for http in running.http:  # both have noticed, and have given what they give alone
                for _ in range(60):
                    await ask(http, asked)
                assert "limits are counted by each gateway" in (await http.get("/health")).text
            assert set(asked.statuses) == {200, 429}
            assert 50 <= asked.served <= 60  # 25 each, and what was left in Redis
        finally:
            redis.kill()
            redis.start()
        await until_shared(running)
        assert (await ask_all(running, ASKED)).served <= 50


async def until_shared(running: Cluster) -> None:
    """Until both count in Redis again; a caller is needed to notice."""
    end = time.monotonic() + 30
    for http in running.http:
        while "counted by each gateway" in (await http.get("/health")).text:
            assert time.monotonic() < end
            await ask(http, Asked())
            await asyncio.sleep(0.1)

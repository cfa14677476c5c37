"""A gateway in this process before two fake nodes that hold two releases, all on real sockets."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from tests.support.fake_node import FakeNode
from tests.support.serving import serving

from deployment.app import Services

OLD, NEW = "ramsey-model:v1.1", "ramsey-model:v1.2"
QUICK = {"min_time": 0, "min_requests": 0, "probes": {"rate": 0}}


@dataclass
class Site:
    """What a test needs: the admin API, the nodes behind, the parts inside."""

    http: httpx.AsyncClient
    nodes: list[FakeNode]
    services: Services

    async def deploy(self, release: str = "v1.2", **plan: Any) -> dict[str, Any]:
        answer = await self.http.post("/admin/rollouts", json={"release": release, "plan": {**QUICK, **plan}})
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def say(self, verb: str, **body: Any) -> dict[str, Any]:
        answer = await self.http.post(f"/admin/rollouts/current/{verb}", json=body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def now(self) -> dict[str, Any]:
        return dict((await self.http.get("/admin/rollouts/current")).json())

    async def until(self, holds: Callable[[dict[str, Any]], bool], seconds: float = 60.0) -> dict[str, Any]:
        """The rollout, as soon as something holds of it."""
        shown: dict[str, Any] = {}
        try:
            async with asyncio.timeout(seconds):
                while True:
                    shown = await self.now()
                    if holds(shown):
                        return shown
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"it did not come to that: {shown}") from None

    async def phase(self, *phases: str) -> dict[str, Any]:
        return await self.until(lambda shown: shown["phase"] in phases)

    async def weights(self) -> dict[str, float]:
        splits = [split for split in self.services.traffic.splits if split.model == "ramsey-model"]
        return {share.release: share.weight for share in splits[0].shares}

    async def table(self) -> dict[str, float]:
        """The weights, once the gateway has taken in what was written: that may be a quarter of a second later."""
        await self.services.traffic_room.sync.refresh()
        return await self.weights()

    async def ask(self) -> str:
        answer = await self.http.post("/generate", json={"prompt": "Hello", "temperature": 1})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["release"])


@asynccontextmanager
async def site(nodes: int = 2, labels: dict[str, str] | None = None, **overrides: Any) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        fakes = [await stack.enter_async_context(FakeNode([OLD, NEW])) for _ in range(nodes)]
        pool = {
            "nodes": [
                {
                    "name": f"n{number}",
                    "url": fake.url,
                    "labels": {"colour": "blue" if number == 0 else "green", **(labels or {})},
                }
                for number, fake in enumerate(fakes)
            ],
            "health_interval": 0.2,
        }
        url, services = await stack.enter_async_context(serving(fakes[0].url, pool=pool, **overrides))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=20))
        yield Site(http, fakes, services)


@pytest.fixture
async def two_nodes() -> AsyncIterator[Site]:
    async with site() as opened:
        yield opened

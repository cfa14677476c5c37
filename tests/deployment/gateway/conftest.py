"""A gateway in this process before a fake node, both on real sockets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio
from tests.support.fake_node import FakeNode
from tests.support.serving import serving

from deployment.app import Services

REPLY = "This is ramsey-model:v1.1"


@dataclass(frozen=True)
class Gate:
    """What a test needs: the wire, the node behind, the parts inside."""

    http: httpx.AsyncClient
    node: FakeNode
    services: Services

    def sent(self, path: str) -> dict[str, Any]:
        """The body of the last inference that reached the node at `path`, the pool's own probes aside."""
        bodies = [body for at, body in self.node.bodies if at == path and "Hello" in str(body)]
        return dict(bodies[-1])

    @property
    def url(self) -> str:
        return str(self.http.base_url).rstrip("/")


@asynccontextmanager
async def gate_with_short_times(node: FakeNode) -> AsyncIterator[Gate]:
    """A gateway that soon loses patience with its node."""
    timeouts = {"connect_timeout": 0.5, "first_token_timeout": 1.0, "token_timeout": 0.5, "request_timeout": 1.5}
    async with (
        serving(node.url, engine=timeouts, pool={"health_timeout": 0.5}) as (url, services),
        httpx.AsyncClient(base_url=url, timeout=20) as http,
    ):
        yield Gate(http, node, services)


@pytest.fixture
async def node() -> AsyncIterator[FakeNode]:
    async with FakeNode(token_delay_s=0.002) as fake:
        yield fake


@pytest.fixture
async def gate(node: FakeNode) -> AsyncIterator[Gate]:
    async with gate_with_short_times(node) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_gate() -> AsyncIterator[Gate]:
    """One for a whole file of tests that leave no trace."""
    async with FakeNode() as node, gate_with_short_times(node) as opened:
        yield opened

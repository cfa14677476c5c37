"""Loads of releases on nodes: one at a time for each, and none belongs to a request."""

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from deployment.clock import Clock
from deployment.engines.learned import blend
from deployment.engines.metrics import PoolMetrics
from deployment.engines.node import Node
from deployment.engines.outcomes import Outcomes
from deployment.errors import EngineError, EngineTimeout
from deployment.ollama_client import Timeouts

_log = structlog.get_logger("engines")
_UNLOAD_POLL_S = 0.2

Load = asyncio.Task[EngineError | None]


class Warmer:
    """Loads releases with our own keep_alive, and watches that loads and unloads end.

    A caller's disconnect would abort a load that its request began; these belong to nobody.
    """

    def __init__(
        self, keep_alive: str | int, limit_s: float, clock: Clock, metrics: PoolMetrics, outcomes: Outcomes
    ) -> None:
        self._keep_alive = keep_alive
        self._limit_s = limit_s
        self._clock = clock
        self._metrics = metrics
        self._outcomes = outcomes
        self._loads: dict[tuple[str, str], Load] = {}
        self.on_loaded: Callable[[], None] = lambda: None

    def ensure(self, node: Node, release: str) -> Load:
        """The load of a release on a node, begun unless one goes on; its result is None or what failed."""
        key = (node.name, release)
        if (load := self._loads.get(key)) is None:
            load = self._loads[key] = asyncio.create_task(self._load(node, release), name=f"load {key}")
            load.add_done_callback(lambda _: self._loads.pop(key, None))
        return load

    async def unload(self, node: Node, release: str) -> None:
        """Unload, and wait until the node no longer lists it. Raises EngineTimeout when it hangs."""
        await node.client.unload(release)
        node.on(release).loaded = False
        until = self._clock.monotonic() + self._limit_s
        while release in {str(row.get("name")) for row in await node.client.ps()}:
            if self._clock.monotonic() >= until:
                raise EngineTimeout(
                    f"{node.name} did not unload {release} within {self._limit_s:g} s.",
                    hint="Drain the node and restart its engine.",
                )
            await asyncio.sleep(_UNLOAD_POLL_S)

    async def forget(self, node: Node) -> None:
        """The node leaves the pool: end its loads."""
        await self._cancel([load for (name, _), load in self._loads.items() if name == node.name])

    async def close(self) -> None:
        """End every load."""
        await self._cancel(list(self._loads.values()))

    async def _load(self, node: Node, release: str) -> EngineError | None:
        body = {"model": release, "stream": False, "keep_alive": self._keep_alive}
        timeouts = Timeouts(first_token=self._limit_s, total=self._limit_s)
        began = self._clock.monotonic()
        on = node.on(release)
        try:
            async with contextlib.aclosing(node.client.events("/api/generate", body, timeouts=timeouts)) as events:
                async for _ in events:
                    pass
        except EngineError as failed:
            late = self._clock.monotonic() - began >= self._limit_s - 0.01
            hung = EngineTimeout(f"{release} was not loaded within {self._limit_s:g} s.")
            error = hung if late and isinstance(failed, EngineTimeout) else failed
            self._metrics.load(node.name, release, error.code)
            _log.warning("load failed", node=node.name, release=release, reason=error.message)
            self._outcomes.failed(node, release, error)
            return error
        took = self._clock.monotonic() - began
        on.loaded = True
        on.learned.load_s = blend(on.learned.load_s, took)
        self._metrics.load(node.name, release, "ok")
        _log.info("loaded", node=node.name, release=release, seconds=round(took, 3))
        self.on_loaded()
        return None

    async def _cancel(self, loads: list[Load]) -> None:
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)

"""Learns the traits of releases that others brought to the nodes, from a node."""

import asyncio
from functools import partial

from deployment.engines import EnginePool
from deployment.errors import RamseyError
from deployment.releases.traffic.table import Traffic
from deployment.releases.traits import Traits

_FIRST_RETRY_S, _LAST_RETRY_S = 0.5, 30.0


class Learning:
    """Follows the table. Until a release's own tokens are known, everything that looks like one is broken."""

    def __init__(self, pool: EnginePool, traffic: Traffic) -> None:
        self._pool, self._traffic = pool, traffic
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def follow(self) -> None:
        """The table may have changed."""
        for release in self._traffic.expected():
            if self._traffic.traits(release) is None and release not in self._tasks:
                task = self._tasks[release] = asyncio.create_task(self._learn(release))
                task.add_done_callback(partial(self._ended, release))

    def _ended(self, release: str, _task: asyncio.Task[None]) -> None:
        self._tasks.pop(release, None)

    async def close(self) -> None:
        """End what goes on."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _learn(self, release: str) -> None:
        wait = _FIRST_RETRY_S
        while release in self._traffic.expected() and self._traffic.traits(release) is None:
            try:
                shown = await self._pool.request("/api/show", release, {"verbose": True})
            except RamseyError:
                await asyncio.sleep(wait)
                wait = min(2 * wait, _LAST_RETRY_S)
            else:
                if self._traffic.traits(release) is None:
                    self._traffic.learn(release, Traits.shown(shown))
                return

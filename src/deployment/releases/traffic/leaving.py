"""A release that left the table is unloaded once nobody is answered by it any more."""

import asyncio
import contextlib
from functools import partial

import structlog

from deployment.engines import EnginePool
from deployment.errors import RamseyError
from deployment.releases.traffic.table import Traffic

_GRACE_S = 10.0
"""Other gateways have the new table by then, and none sends one more request."""
_POLL_S = 1.0

_log = structlog.get_logger("traffic")


class Leaving:
    """Follows the table: what is expected stays loaded, what left is unloaded."""

    def __init__(self, pool: EnginePool, traffic: Traffic) -> None:
        self._pool, self._traffic = pool, traffic
        self._before: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def follow(self) -> None:
        """The table may have changed."""
        expected = self._traffic.expected()
        self._pool.expect(expected, self._traffic.places())
        for release in self._before - expected.keys():
            if release not in self._tasks:
                task = self._tasks[release] = asyncio.create_task(self._unload(release))
                task.add_done_callback(partial(self._ended, release))
        self._before = set(expected)

    def _ended(self, release: str, _task: asyncio.Task[None]) -> None:
        self._tasks.pop(release, None)

    async def close(self) -> None:
        """End what goes on."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _unload(self, release: str) -> None:
        await asyncio.sleep(_GRACE_S)
        while self._busy(release):  # noqa: ASYNC110 - an event would cost every request something
            await asyncio.sleep(_POLL_S)
        if release in self._traffic.expected():
            return  # it came back
        with contextlib.suppress(RamseyError):
            await self._pool.unload(release)
            _log.info("unloaded: it has left the traffic", release=release)

    def _busy(self, release: str) -> bool:
        return any(each.release == release and each.in_flight for node in self._pool.view() for each in node.releases)

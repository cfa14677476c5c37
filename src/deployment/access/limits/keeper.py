"""Writes behind what is used of budgets, and takes it up again at the next start."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from deployment.access.background import written_behind
from deployment.access.limits.memory import MemoryCounters
from deployment.access.limits.store import SpendingStore
from deployment.clock import Clock
from deployment.errors import DatabaseUnavailable

_EVERY_S = 5.0
"""What a crash may forget of what was spent."""


class BudgetKeeper:
    """For counters in memory; Redis keeps its own. A database that is away only delays it."""

    def __init__(self, counters: MemoryCounters, store: SpendingStore, clock: Clock) -> None:
        self._counters = counters
        self._store = store
        self._clock = clock
        self._loaded = False

    async def save(self) -> None:
        """Take up what was written down before the first time, then write what changed."""
        if not self._loaded:
            self._counters.restore(await self._store.load(self._clock.now()))
            self._loaded = True
        changed = self._counters.spending()
        try:
            await self._store.save(changed, self._clock.now())
        except BaseException:
            self._counters.again(changed)
            raise

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep until the end."""
        with contextlib.suppress(DatabaseUnavailable):
            await self.save()
        async with written_behind(self.save, _EVERY_S):
            yield

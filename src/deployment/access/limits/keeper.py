"""Writes behind what is used of budgets, and takes it up again at the next start."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from deployment.access.background import written_behind
from deployment.access.limits.memory import MemoryCounters, Spending
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
        self._written: dict[str, Spending] = {}
        """How much of each is in the database because of this process, or was there before."""

    async def save(self) -> None:
        """Take up what was written down before the first time, then write what changed."""
        now = self._clock.now()
        if not self._loaded:
            there = await self._store.load(now)
            self._written = {each.counter: replace(each) for each in there}
            self._counters.restore(there)
            self._loaded = True
        changed = [replace(each) for each in self._counters.spending()]
        try:
            await self._store.add([more for each in changed if (more := self._more(each)).tokens], now)
        except BaseException:
            self._counters.again(changed)
            raise
        self._written |= {each.counter: each for each in changed}
        self._written = {name: each for name, each in self._written.items() if each.ends_at > now}

    def _more(self, spending: Spending) -> Spending:
        """What was spent since it was written down."""
        written = self._written.get(spending.counter)
        return replace(spending, tokens=spending.tokens - (written.tokens if written is not None else 0))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep until the end."""
        with contextlib.suppress(DatabaseUnavailable):
            await self.save()
        async with written_behind(self.save, _EVERY_S):
            yield

"""Writes behind what is used of budgets, and takes up what others use and what was used before a start."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from deployment.access.limits.memory import MemoryCounters, Spending
from deployment.access.limits.store import SpendingStore
from deployment.background import written_behind
from deployment.clock import Clock
from deployment.errors import DatabaseUnavailable

_EVERY_S = 5.0
"""What a crash may forget of what was spent, and how late gateways know of each other's."""
_MOST_LOOKED = 1000
"""How many budgets are held against the others' each time."""


class BudgetKeeper:
    """For counters in memory; Redis keeps its own. A database that is away only delays it.

    Where several `gateways` have each its share, what was used before a start is shared too, and what others use is
    theirs.
    """

    def __init__(self, counters: MemoryCounters, store: SpendingStore, clock: Clock, gateways: int = 1) -> None:
        self._gateways = gateways
        self._counters = counters
        self._store = store
        self._clock = clock
        self._loaded = False
        self._looked = 0
        self._written: dict[str, Spending] = {}
        """How much of each was in the database when we last looked."""

    async def save(self) -> None:
        """Write what changed, and take up what other gateways spent of the same; of all budgets the first time."""
        now = self._clock.now()
        if not self._loaded:
            there = await self._store.load(now)
            self._take_up([replace(each, tokens=each.tokens // self._gateways) for each in there])
            self._loaded = True
        changed = [replace(each) for each in self._counters.spending()]
        try:
            await self._store.add([more for each in changed if (more := self._more(each)).tokens], now)
        except BaseException:
            self._counters.again(changed)
            raise
        self._written |= {each.counter: each for each in changed}
        self._written = {name: each for name, each in self._written.items() if each.ends_at > now}
        if self._gateways == 1:
            self._take_up(await self._store.spent(self._next()))

    def _next(self) -> list[str]:
        """The budgets that are looked at now: all, or so many in turn."""
        names = list(self._written)
        begin = self._looked if self._looked < len(names) else 0
        self._looked = begin + _MOST_LOOKED
        return names[begin : self._looked]

    def _take_up(self, there: Sequence[Spending]) -> None:
        """What is written beyond what we know is the others'."""
        for each in there:
            others = self._more(each)
            if others.tokens:
                self._counters.take_up(others)
            self._written[each.counter] = each

    def _more(self, spending: Spending) -> Spending:
        """What is more than was written down when we last looked."""
        written = self._written.get(spending.counter)
        return replace(spending, tokens=spending.tokens - (written.tokens if written is not None else 0))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep until the end."""
        with contextlib.suppress(DatabaseUnavailable):
            await self.save()
        async with written_behind(self.save, _EVERY_S, "budgets"):
            yield

"""The queue before the slots of one release: bands by priority, fair between tenants by tokens. Pure.

Within a band it is start-time fair queueing (Goyal, Vin, Cheng 1996): an entry starts at the later of the band's
virtual time and its tenant's last finish, and finishes its cost later; the lowest start goes first. A tenant that
queues a hundred requests therefore delays its own, not the first one of another. Batch work goes when no
interactive request waits, and else once in `batch_share` turns, so that it never starves.
"""

import heapq
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from deployment.engines.model import Priority

T = TypeVar("T")

_CHOOSY = 16


@dataclass(slots=True, eq=False)
class Entry(Generic[T]):
    """One request that waits; `cost` is its estimated tokens."""

    item: T
    tenant: str
    priority: Priority
    cost: float
    since: float
    waiting: bool = True
    aside: bool = False
    """Had its turn already, and waits before the others."""
    start: float = 0.0


@dataclass(slots=True)
class _Band(Generic[T]):
    heap: list[tuple[float, int, Entry[T]]] = field(default_factory=list)
    finish: dict[str, float] = field(default_factory=dict)
    virtual: float = 0.0
    waiting: int = 0

    def head(self) -> Entry[T] | None:
        while self.heap and (not self.heap[0][2].waiting or self.heap[0][2].aside):
            heapq.heappop(self.heap)
        return self.heap[0][2] if self.heap else None


class FairQueue(Generic[T]):
    """Entries in the order in which they are to be served."""

    def __init__(self, batch_share: int = 10) -> None:
        self._interactive: _Band[T] = _Band()
        self._batch: _Band[T] = _Band()
        self._bands = {Priority.INTERACTIVE: self._interactive, Priority.BATCH: self._batch}
        self._aside: deque[Entry[T]] = deque()
        self._batch_share = batch_share
        self._sequence = 0
        self._turns = 0

    def __len__(self) -> int:
        return len(self._aside) + self._interactive.waiting + self._batch.waiting

    def depth(self, priority: Priority) -> int:
        """Entries of a band."""
        return self._bands[priority].waiting + sum(entry.priority is priority for entry in self._aside)

    def push(self, entry: Entry[T]) -> None:
        """Wait in the tenant's turn."""
        band = self._bands[entry.priority]
        entry.start = max(band.virtual, band.finish.get(entry.tenant, 0.0))
        band.finish[entry.tenant] = entry.start + entry.cost
        band.waiting += 1
        self._sequence += 1
        heapq.heappush(band.heap, (entry.start, self._sequence, entry))

    def push_first(self, entry: Entry[T]) -> None:
        """Wait before all others: it had its turn, and a node failed it."""
        entry.aside = True
        self._aside.append(entry)

    def set_aside(self, entry: Entry[T]) -> bool:
        """The head waits by its own choice for something better than what is free: who comes after it may go.

        It keeps its place before them. False, and nothing done, when enough wait so already.
        """
        if entry.aside or len(self._aside) >= _CHOOSY:
            return False
        self.remove(entry, served=True)
        entry.waiting = True
        self.push_first(entry)
        return True

    def in_order(self) -> list[Entry[T]]:
        """The entries that may go next: those that had their turn, then the head of the order."""
        ahead = list(self._aside)
        if head := self._head():
            ahead.append(head)
        return ahead

    def remove(self, entry: Entry[T], *, served: bool) -> bool:
        """Take an entry out: it goes (`served`), or its caller or its deadline took it. False if it was out."""
        if not entry.waiting:
            return False
        entry.waiting = False
        if entry.aside:
            self._aside.remove(entry)
            return True
        band = self._bands[entry.priority]
        band.waiting -= 1
        if served:
            band.virtual = max(band.virtual, entry.start)
            batch = entry.priority is Priority.BATCH
            self._turns = 0 if batch else self._turns + 1
        if not band.waiting:  # a busy period ends: nobody is owed anything
            band.heap.clear()
            band.finish.clear()
        return True

    def correct(self, tenant: str, priority: Priority, difference: float) -> None:
        """The tenant used `difference` more (or less) tokens than estimated; counts for its next entries."""
        finish = self._bands[priority].finish
        if tenant in finish:
            finish[tenant] += difference

    def _head(self) -> Entry[T] | None:
        interactive = self._interactive.head()
        batch = self._batch.head()
        if interactive is None or batch is None:
            return interactive or batch
        return batch if self._turns + 1 >= self._batch_share else interactive

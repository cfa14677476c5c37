"""What the slots of one release on one node hold in their caches, as far as our own requests tell. Pure.

An engine's cache belongs to its slots: a node that has read a conversation once may long have overwritten it. So we
keep account of the slots as llama.cpp does: of the idle ones a prompt gets the one that shares most with it, else the
one used longest ago.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many leading blocks two prompts share: hashes are chained, which makes that a binary search."""
    if not one or not other or one[0] != other[0]:
        return 0
    low, high = 1, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[middle - 1] == other[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low


class Survey(NamedTuple):
    """What the slots hold of one prompt, in leading blocks."""

    idle: int
    """The slot that would take it now; where all are busy, the mean of them, for any may be free first."""
    busy: int
    """The best of the busy ones."""
    slots: int
    """How many of those hold so much; 0 when none holds anything."""


class Seat:
    """One slot, and the prompt that it read last."""

    __slots__ = ("blocks", "busy", "used")

    def __init__(self) -> None:
        self.blocks: Sequence[int] = ()
        self.busy = False
        self.used = 0


class Ticket:
    """A request on a slot, or before them all."""

    __slots__ = ("blocks", "seat")

    def __init__(self, blocks: Sequence[int]) -> None:
        self.blocks = blocks
        self.seat: Seat | None = None


_NOTHING = Survey(0, 0, 0)


class Seats:
    """The slots, and who waits on the node for one."""

    __slots__ = ("_seats", "_turn", "_waiting")

    def __init__(self, slots: int) -> None:
        self._seats = [Seat() for _ in range(slots)]
        self._waiting: deque[Ticket] = deque()
        self._turn = 0

    def survey(self, blocks: Sequence[int]) -> Survey:
        """What they hold of a prompt."""
        if not blocks:
            return _NOTHING
        idle = [common(seat.blocks, blocks) for seat in self._seats if not seat.busy]
        busy = [common(seat.blocks, blocks) for seat in self._seats if seat.busy]
        most = max(busy, default=0)
        held = max(idle) if idle else sum(busy) // len(busy)
        return Survey(held, most, busy.count(most) if most else 0)

    def take(self, blocks: Sequence[int]) -> Ticket:
        """A request goes to the node; give its ticket back with `leave`."""
        ticket = Ticket(blocks)
        idle = [seat for seat in self._seats if not seat.busy]
        if idle:
            self._sit(ticket, max(idle, key=lambda seat: (common(seat.blocks, blocks), -seat.used)))
        else:
            self._waiting.append(ticket)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """It is over; who waits first takes the slot."""
        seat = ticket.seat
        if seat is None:
            self._waiting.remove(ticket)
            return
        seat.busy = False
        if self._waiting:
            self._sit(self._waiting.popleft(), seat)

    def forget(self) -> None:
        """The node restarted: its caches are empty."""
        for seat in self._seats:
            seat.blocks = ()

    def _sit(self, ticket: Ticket, seat: Seat) -> None:
        self._turn += 1
        seat.blocks, seat.busy, seat.used = ticket.blocks, True, self._turn
        ticket.seat = seat

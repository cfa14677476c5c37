"""The queue of one release before its slots, and what its drain rate promises to those who come too late."""

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from deployment.engines.fair_queue import FairQueue
from deployment.engines.placement import Ask

if TYPE_CHECKING:
    from deployment.engines.admission import Slot


class Waiting:
    """What a queue entry carries."""

    __slots__ = ("ask", "slot")

    def __init__(self, ask: Ask, slot: "asyncio.Future[Slot]") -> None:
        self.ask = ask
        self.slot = slot


class Line:
    """The queue of one release, its timer, and the times at which slots came free."""

    __slots__ = ("freed", "queue", "timer")

    def __init__(self, batch_share: int) -> None:
        self.queue: FairQueue[Waiting] = FairQueue(batch_share)
        self.freed: deque[float] = deque(maxlen=64)
        self.timer: asyncio.TimerHandle | None = None

    def drain_rate(self, now: float) -> float | None:
        """Requests a second that leave lately; None when too few did to say."""
        if len(self.freed) < 2 or now <= self.freed[0]:
            return None
        return (len(self.freed) - 1) / (now - self.freed[0])

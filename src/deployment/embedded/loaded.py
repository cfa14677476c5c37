"""One loaded model: what it was made of, who uses it, and how long it stays."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from deployment.embedded.child import Child
from deployment.embedded.options import LoadOptions

# What Ollama reports for a model that stays for ever: the longest time that Go can add.
_FOR_EVER = timedelta(days=106_751)


@dataclass(frozen=True)
class Key:
    """What makes two requests share a runner."""

    digest: str
    options: LoadOptions


@dataclass(frozen=True)
class Wanted:
    """A model to be loaded: `name` is what `/api/ps` shows."""

    key: Key
    blob: Path
    name: str


class Runner:
    """One loaded model."""

    def __init__(self, wanted: Wanted, child: Child, slots: int, born: float, keep_alive: float) -> None:
        self.wanted = wanted
        self.child = child
        self.born = born
        self.slots = asyncio.Semaphore(slots)  # first come, first served
        self.users = 0  # requests inside and waiting for a slot
        self.keep_alive = keep_alive  # seconds
        self.expires_at: datetime | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.last_used = born
        self.broken = False
        self.retiring = False  # another model waits for its place: it takes no new requests

    def expiry(self, now: datetime) -> datetime:
        """When its keep-alive is over, if nobody uses it from now on."""
        try:
            return now + min(timedelta(seconds=self.keep_alive), _FOR_EVER)
        except OverflowError:
            return now + _FOR_EVER

    def start_timer(self, over: Callable[["Runner"], None]) -> None:
        """It rests: `over` is called when its keep-alive is over."""
        if not math.isinf(self.keep_alive):
            self.timer = asyncio.get_running_loop().call_later(self.keep_alive, over, self)

    def cancel_timer(self) -> None:
        """It is in use again."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

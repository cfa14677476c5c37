"""Acts on what does not lie in the database, and so cannot share a transaction with their entry in the record."""

import asyncio
from collections import deque
from contextlib import AbstractAsyncContextManager
from typing import Any

import structlog

from deployment.access.audit import Act
from deployment.access.model import Principal
from deployment.access.store import AccessStore
from deployment.background import written_behind
from deployment.clock import Clock
from deployment.errors import DatabaseUnavailable

_EVERY_S = 5.0
_MOST_WAITING = 1000


class Recorder:
    """Writes an act down at once; while the database is away it waits, for nodes must be drained then too."""

    def __init__(self, store: AccessStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._waiting: deque[Act] = deque(maxlen=_MOST_WAITING)
        self._turn = asyncio.Lock()
        self._log = structlog.get_logger("deployment.access")

    async def record(self, actor: Principal, action: str, subject: str, **detail: Any) -> None:
        """It was done. Never fails: what cannot be written down now is logged, and written later."""
        self._waiting.append(Act(self._clock.now(), actor, action, subject, detail))
        try:
            await self.flush()
        except DatabaseUnavailable:
            self._log.warning("act_not_recorded_yet", actor=actor.id, action=action, subject=subject, **detail)

    async def flush(self) -> None:
        """Write what waits, in its order. Raises DatabaseUnavailable; it waits on then."""
        async with self._turn:
            acts = tuple(self._waiting)
            if not acts:
                return
            self._waiting.clear()
            try:
                await self._store.record(acts)
            except BaseException:
                self._waiting.extendleft(reversed(acts))
                raise

    def running(self) -> AbstractAsyncContextManager[None]:
        """Write what waits until the end."""
        return written_behind(self.flush, _EVERY_S, "record")

"""Keeps conversations beside the request path: noted in memory, sealed and written some moments later."""

import asyncio
import contextlib
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter

from deployment.clock import Clock
from deployment.database import Database
from deployment.errors import ConfigurationError, DatabaseUnavailable
from deployment.privacy.model import Conversation, Sealed, Wish
from deployment.privacy.redaction import redacted_all
from deployment.privacy.sealing import Sealer
from deployment.privacy.store import PrivacyStore

_TURN_S = 1.0
_EXPIRE_S = 600.0
_BATCH = 200
_MOST_WAITING = 2000
_MOST_BYTES = 32 << 20
_ERASURES_KEPT = timedelta(days=30)
"""Nothing waits that long to be written."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A conversation that is still to be written."""

    said: Conversation
    redact: bool
    size: int
    began: float


class Keeper:
    """One for a process."""

    def __init__(
        self, database: Database, store: PrivacyStore, sealer: Sealer, clock: Clock, registry: CollectorRegistry
    ) -> None:
        self._database, self._store, self._sealer, self._clock = database, store, sealer, clock
        self._wishes: Mapping[str, Wish] = {}
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._kept = Counter(
            "ramsey_conversations_kept", "Conversations that tenants asked to keep.", registry=registry
        )
        self._lost = Counter(
            "ramsey_conversations_lost",
            "Conversations that could not be kept: the database was away.",
            registry=registry,
        )
        self._log = structlog.get_logger("privacy")
        self.problem: str | None = None
        """Why nothing can be kept now; for /health."""

    def wants(self, tenant: str) -> bool:
        """Whether a tenant asked to keep its conversations."""
        wish = self._wishes.get(tenant)
        return wish is not None and wish.keep

    def note(
        self,
        *,
        tenant: str,
        subject: str,
        request_id: str,
        model: str,
        release: str,
        content: dict[str, Any],
        began: float | None = None,
    ) -> None:
        """Keep a conversation soon, that was asked at `began` (`moment`) or now.

        Where too much waits, the oldest is lost, and counted.
        """
        wish = self._wishes.get(tenant)
        if wish is None or not wish.keep:
            return
        now = self._clock.now()
        one = Conversation(
            str(uuid.uuid4()),
            tenant,
            subject[:256],
            now,
            now + timedelta(days=wish.days),
            request_id[:128],
            model,
            release,
            content,
        )
        size = _size(content)
        self._waiting.append(_Waiting(one, wish.redact, size, self.moment() if began is None else began))
        self._bytes += size
        while len(self._waiting) > _MOST_WAITING or self._bytes > _MOST_BYTES:
            self._bytes -= self._waiting.popleft().size
            self._lost.inc()

    async def refresh(self) -> None:
        """Take in what tenants ask for. Raises DatabaseUnavailable."""
        async with self._database.read() as connection:
            self._wishes = {wish.tenant: wish for wish in await self._store.wishes(connection)}

    async def flush(self) -> None:
        """Write what waits. Raises DatabaseUnavailable; what was not written waits on."""
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            try:
                kept = await self._write(batch, await asyncio.to_thread(self._sealed, batch))
            except BaseException:
                self._waiting.extendleft(reversed(batch))
                raise
            self._bytes -= sum(one.size for one in batch)
            self._kept.inc(kept)

    async def _write(self, batch: Sequence["_Waiting"], rows: Sequence[Sealed]) -> int:
        """All but what was asked before its person was erased; how many."""
        async with self._database.write() as connection:
            await self._store.begin_to_write(connection)
            erased = await self._store.erased(connection, {row.subject_tag for row in rows})
            if erased:
                # In the database's time, which gateways share: so long ago by our own clock, which only has to go on.
                now = await self._store.now(connection, self._clock)
                ages = [timedelta(seconds=self.moment() - one.began) for one in batch]
                rows = [row for row, age in zip(rows, ages, strict=True) if not _covers(erased, row, now - age)]
            if rows:
                await self._store.add(connection, rows)
        return len(rows)

    def moment(self) -> float:
        """Now, for `note`."""
        return self._clock.monotonic()

    def _sealed(self, batch: Sequence["_Waiting"]) -> list[Sealed]:
        return [self._sealer.seal(_redacted(one.said) if one.redact else one.said) for one in batch]

    async def expire(self) -> None:
        """Delete what was kept long enough. Raises DatabaseUnavailable."""
        now = self._clock.now()
        async with self._database.write() as connection:
            gone = await self._store.expire(connection, now)
            await self._store.forget_erasures(connection, now - _ERASURES_KEPT)
        if gone:
            self._log.info("conversations_expired", count=gone)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep in the background until the end; what waits is written then."""
        await self._try(self.refresh)
        loop = asyncio.create_task(self._loop())
        try:
            yield
        finally:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)
            with contextlib.suppress(DatabaseUnavailable, ConfigurationError):
                await self.flush()

    async def _loop(self) -> None:
        expire_at = self._clock.monotonic()
        while True:
            await asyncio.sleep(_TURN_S)
            await self._try(self.refresh)
            await self._try(self.flush)
            if self._clock.monotonic() >= expire_at:
                expire_at = self._clock.monotonic() + _EXPIRE_S
                await self._try(self.expire)

    async def _try(self, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except (DatabaseUnavailable, ConfigurationError) as error:
            if self.problem is None:
                self._log.error("conversations_not_kept", reason=error.message)
            self.problem = f"Conversations wait to be kept: {error.message}"
        except Exception as error:  # whatever it is, it must not end the keeping, nor the deleting, for good
            if self.problem is None:
                self._log.error("conversations_not_kept", exc_info=error)
            self.problem = f"Conversations wait to be kept: {type(error).__name__}."
        else:
            self.problem = None


def _covers(erased: Mapping[str, datetime], row: Sealed, asked: datetime) -> bool:
    at = erased.get(row.subject_tag)
    return at is not None and asked <= at


def _redacted(one: Conversation) -> Conversation:
    return replace(one, content=redacted_all(one.content))


def _size(value: Any) -> int:
    if isinstance(value, str):
        return 2 * len(value) + 50
    if isinstance(value, dict):
        return sum(map(_size, value.values())) + 100
    return sum(map(_size, value)) + 60 if isinstance(value, list | tuple) else 30

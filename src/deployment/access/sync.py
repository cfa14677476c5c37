"""Keeps the directory in memory and the store in step: changes come in, last uses go out."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

from deployment.access.authentication import Authenticator
from deployment.access.directory import Directory
from deployment.access.sessions import SessionStore
from deployment.access.store import AccessStore
from deployment.clock import Clock
from deployment.errors import DatabaseUnavailable

REFRESH_S = 0.4
"""A revoked key must be nobody everywhere within a second."""
FLUSH_S = 20.0


class Sync:
    """One for a process. `prepare` brings the tables to this version; it runs once, when the database is there."""

    def __init__(
        self,
        prepare: Callable[[], Awaitable[None]],
        store: AccessStore,
        sessions: SessionStore,
        directory: Directory,
        authenticator: Authenticator,
        clock: Clock,
    ) -> None:
        self._prepare = prepare
        self._prepared = False
        self._store = store
        self._sessions = sessions
        self._directory = directory
        self._authenticator = authenticator
        self._clock = clock
        self._turn = asyncio.Lock()
        self._log = structlog.get_logger("deployment.access")
        self.problem: str | None = None
        """Why the store cannot be reached now; for /health."""

    async def refresh(self) -> None:
        """Take in what changed in the store. Raises DatabaseUnavailable."""
        async with self._turn:
            if not self._prepared:
                await self._prepare()
                self._prepared = True
            asked_at = self._clock.monotonic()
            changes = await self._store.changes(self._directory.version)
            if changes is not None:
                self._directory.apply(changes)
            self._directory.true_at = asked_at

    async def flush(self) -> None:
        """Write down when keys and sessions were last used; what cannot be written is forgotten."""
        self._directory.sessions.forget(self._clock.now())
        await self._store.mark_used(self._authenticator.take_used())
        await self._sessions.mark_seen(self._directory.sessions.take_seen())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Refresh in the background until the end; the last uses are written then.

        A database that is away does not keep the process from starting: keys of the settings work.
        """
        if self._directory.true_at is None:
            self._directory.true_at = -math.inf
        await self._try(self.refresh)
        loop = asyncio.create_task(self._loop())
        try:
            yield
        finally:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)
            with contextlib.suppress(DatabaseUnavailable):
                await self.flush()

    async def _loop(self) -> None:
        flush_at = self._clock.monotonic() + FLUSH_S
        while True:
            await asyncio.sleep(REFRESH_S)
            await self._try(self.refresh)
            if self._clock.monotonic() >= flush_at:
                flush_at = self._clock.monotonic() + FLUSH_S
                await self._try(self.flush)

    async def _try(self, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except DatabaseUnavailable as error:
            self._note(error.message, "; ".join(getattr(error, "__notes__", ())))
        except Exception as error:  # a row that cannot be read must not end the following: keys would stay for ever
            self._note(f"What is stored of keys cannot be used: {type(error).__name__}.", str(error))
        else:
            self._note(None)

    def _note(self, problem: str | None, detail: str = "") -> None:
        if (problem is None) != (self.problem is None):
            if problem is None:
                self._log.info("database_back")
            else:
                self._log.error("database_unavailable", problem=problem, detail=detail)
        self.problem = problem

"""A session that another gateway began a moment ago is fetched before anybody asks whose it is."""

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from deployment.access.directory import Directory
from deployment.access.sessions.browsers import Browsers
from deployment.clock import Clock
from deployment.errors import DatabaseUnavailable

_LONGEST_S = 2.0
_APART_S = 0.05
"""Cookies that somebody made up cost the database one look in this time, however many they are."""


class KnownSessions:
    """ASGI middleware. A request without a cookie of ours, or with one that is known, passes at once."""

    def __init__(
        self,
        app: ASGIApp,
        browsers: Browsers,
        directory: Directory,
        refresh: Callable[[], Awaitable[None]],
        clock: Clock,
    ) -> None:
        self._app, self._browsers, self._directory = app, browsers, directory
        self._refresh, self._clock = refresh, clock
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None
        self._looked_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Look, where that is needed, and pass on."""
        if scope["type"] in {"http", "websocket"}:
            session_id = self._browsers.shown(scope)
            if session_id and self._directory.sessions.find(hashlib.sha256(session_id).hexdigest()) is None:
                await self._look()
        await self._app(scope, receive, send)

    async def _look(self) -> None:
        """Join the look that begins next: one under way may have read already."""
        if self._next is None:
            self._next = asyncio.create_task(self._run())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._next), _LONGEST_S)

    async def _run(self) -> None:
        async with self._turn:
            await asyncio.sleep(max(0.0, self._looked_at + _APART_S - self._clock.monotonic()))
            self._next = None
            self._looked_at = self._clock.monotonic()
            with contextlib.suppress(DatabaseUnavailable):
                await self._refresh()

"""How an answer reaches its caller: past ASGI where our own listener took the request, else by its messages."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from starlette.types import Receive, Scope, Send

from deployment.gateway.listener.headers import Header

EXTENSION = "ramsey.connection"
"""The name of a request's connection among the extensions of its scope."""


class CallerConnection(Protocol):
    """The caller of one request."""

    def when_gone(self, call: Callable[[], None] | None) -> None:
        """Call this once when the caller leaves, at once if they have; None: no more."""
        ...

    def begin(self, status: int, headers: Sequence[Header], length: int | None) -> Awaitable[None] | None:
        """The head of the answer, with the `length` of its body in bytes where that is known. A body must follow.

        Returns what to wait for before its first piece, as `write` does.
        """
        ...

    def write(self, piece: bytes, *, more: bool) -> Awaitable[None] | None:
        """A piece of the body; without `more` the last. Returns what to wait for before the next where the caller
        reads more slowly than we write; mostly there is nothing to wait for."""
        ...


class DirectConnection(CallerConnection, Protocol):
    """One that our own listener took: what it knows of the request, and costs less."""

    common: bytes
    """The lines of the headers that every answer carries."""
    outermost: Send | None
    """What ASGI's messages go through when nobody inside adds to them."""

    def whole_body(self) -> bytes | None:
        """The body, where it has come to its end; None where `receive` must be asked for it."""
        ...

    @property
    def begun(self) -> bool:
        """Whether the head of an answer is on its way."""
        ...


def connection_of(scope: Scope) -> DirectConnection | None:
    """The connection of an HTTP request, where our own listener took it."""
    extensions = scope.get("extensions")
    return extensions.get(EXTENSION) if extensions else None


def caller_of(scope: Scope, receive: Receive, send: Send) -> CallerConnection:
    """Who is to be answered: past ASGI where we may, which is where nobody wrapped `send` to add to answers (CORS)."""
    connection = connection_of(scope)
    return connection if connection is not None and connection.outermost is send else AsgiConnection(receive, send)


class AsgiConnection:
    """The caller of a request that another server took: it takes a task to hear of their leaving."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._waiting: asyncio.Task[None] | None = None

    def when_gone(self, call: Callable[[], None] | None) -> None:
        """See CallerConnection."""
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = None if call is None else asyncio.create_task(self._until_gone(call))

    async def _until_gone(self, call: Callable[[], None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        call()

    def begin(self, status: int, headers: Sequence[Header], length: int | None) -> Awaitable[None]:
        """See CallerConnection."""
        known = [] if length is None else [(b"content-length", b"%d" % length)]
        return self._send({"type": "http.response.start", "status": status, "headers": [*headers, *known]})

    def write(self, piece: bytes, *, more: bool) -> Awaitable[None]:
        """See CallerConnection."""
        return self._send({"type": "http.response.body", "body": piece, "more_body": more})

"""How long a node may take, and who watches it."""

import asyncio
from typing import NamedTuple

from deployment.errors import EngineTimeout
from deployment.ollama_connection.node_socket import NodeSocket


class Timeouts(NamedTuple):
    """How long a node may take, in seconds: to connect, to its first token, between tokens, in all.

    An answer that is not streamed comes in one piece, so that only `connect` and `total` bound it.
    """

    connect: float = 3.0
    first_token: float = 120.0
    token: float = 30.0
    total: float = 600.0


class Watch:
    """The time-outs of one stream. Its socket rings it, on one timer that is moved only when it rings: no work per
    token, and for most requests none either.

    It counts while we wait for the node, not while the consumer is busy; the total counts always.
    """

    __slots__ = ("_end", "_first", "_limit", "_limits", "_loop", "_since", "_socket", "expired")

    def __init__(self, loop: asyncio.AbstractEventLoop, first: float, limits: Timeouts) -> None:
        self._loop = loop
        self._limits = limits
        self._limit = first
        self._since: float | None = loop.time()
        self._end = self._since + limits.total
        self._first = True
        self._socket: NodeSocket | None = None
        self.expired = False

    @property
    def deadline(self) -> float:
        """When the wait that goes on now is over, on the loop's clock."""
        since = self._loop.time() if self._since is None else self._since
        return min(self._end, since + self._limit)

    def start(self, socket: NodeSocket) -> None:
        """From now on, cut the connection when its time is over."""
        self._socket = socket
        socket.wake(self, self.deadline)

    def stop(self) -> None:
        """No more time-outs."""
        if self._socket is not None:
            self._socket.wake(None, 0.0)

    def wait(self) -> None:
        """The wait for the next token begins; that for the first began with the request."""
        if self._since is None:
            self._since = self._loop.time()

    def got_tokens(self, limit: float | None = None) -> None:
        """A token came: the consumer has it now, and `limit` (the between-token time) holds from here."""
        limit = self._limits.token if limit is None else limit
        sooner = limit < self._limit
        self._limit = limit
        self._since = None
        self._first = False
        if sooner and self._socket is not None:
            self._socket.wake(self, self.deadline)

    def late(self) -> EngineTimeout:
        """Which time-out it was."""
        limits = self._limits
        if self._loop.time() >= self._end - 0.01:
            return EngineTimeout(f"The request took longer than {limits.total:g} s in all.")
        if self._first:
            return EngineTimeout(f"The engine gave no first token within {limits.first_token:g} s.")
        return EngineTimeout(f"The engine was silent for {limits.token:g} s between two tokens.")

    def ring(self) -> float | None:
        """The time may be over: None when it is, else when to ring again."""
        if self._loop.time() < self.deadline:
            return self.deadline
        self.expired = True
        return None

"""One HTTP/1.1 connection to a node: a request goes out, its answer comes in, one at a time.

Written here, because a general client's sessions, redirects, cookies and timers cost a fifth of a request's CPU.
The parser is llhttp, as in the listener.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

import httptools

_MAX_HEAD_BYTES = 64 * 1024
_HIGH_WATER_BYTES = 256 * 1024  # beyond this the node waits until somebody reads


class ClosedEarly(ConnectionError):
    """The node closed the connection before its answer was whole."""


class NotHttp(ConnectionError):
    """The node sent what is no answer in HTTP; the text says what it sent."""


class Alarm(Protocol):
    """Who bounds the time of a request."""

    def ring(self) -> float | None:
        """The time may be over: None when it is, else when to ring again, on the loop's clock."""
        ...


class NodeSocket(asyncio.Protocol):
    """A connection that `send` may use when it is new, and again whenever `reusable`."""

    __slots__ = (
        "_alarm",
        "_bodiless",
        "_ended",
        "_error",
        "_framed",
        "_head_bytes",
        "_interim",
        "_into",
        "_keeps",
        "_loop",
        "_parser",
        "_paused",
        "_pieces",
        "_size",
        "_status",
        "_timer",
        "_timer_at",
        "_transport",
        "_waiter",
        "_writable",
        "answered",
        "idle_since",
        "lost",
        "uses",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._pieces: list[bytes] = []
        self._into: Callable[[bytes], bool] | None = None
        self._paused = False
        self._ended = True
        self._keeps = True
        self._alarm: Alarm | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self.lost = False
        self.uses = 0
        """Requests that went out on it."""
        self.idle_since = 0.0
        """When its last answer ended, on the loop's clock."""
        self.answered = False
        """Whether anything of an answer to the last request came."""

    @property
    def reusable(self) -> bool:
        """Whether the last answer was read to its end, and the node keeps the connection."""
        return self._ended and self._keeps and not self.lost and not self._transport.is_closing()

    @property
    def at_end(self) -> bool:
        """Whether the answer is here to its end, and was read."""
        return self._ended and not self._pieces

    def send(self, request: bytes, *, bodiless: bool = False) -> None:
        """Write a request, whole or its beginning; `bodiless` where its answer has no body (HEAD)."""
        self.uses += 1
        self._bodiless = bodiless
        self._ended = self._interim = self.answered = self._framed = False
        self._error: OSError | None = None
        self._status: int | None = None
        self._size = self._head_bytes = 0
        if self.lost:
            self._error = ClosedEarly()
            return
        self._transport.write(request)

    async def write(self, piece: bytes) -> bool:
        """More of a request, as fast as the node takes it; False when it need not go on: an answer or an end came."""
        if self._status is not None or self.lost:
            return False
        self._transport.write(piece)
        if self._writable is not None:
            await self._writable
        return True

    async def head(self) -> int:
        """The status of the answer. Raises OSError for a connection that broke: ClosedEarly, NotHttp and others."""
        while self._status is None:
            if self._error is not None:
                raise self._error
            await self._wait()
        return self._status

    async def read(self) -> bytes:
        """The next bytes of the body, empty at its end. Raises as `head`, after the bytes that came before."""
        pieces = self._pieces
        while not pieces:
            if self._ended:
                return b""
            if self._error is not None:
                raise self._error
            await self._wait()
        return self._taken()

    async def pour(self, into: Callable[[bytes], bool]) -> None:
        """Give each piece of the body to `into` as it comes, until that returns False or the body ends.

        `into` is called from the loop itself: no task wakes for a piece. Raises as `read`, and what `into` raises.
        """
        while self._pieces:
            if not into(self._taken()):
                return
        if self._ended:
            return
        if self._error is not None:
            raise self._error
        self._into = into
        try:
            await self._wait()
        finally:
            self._into = None
        if self._error is not None and not self._pieces:
            raise self._error

    def _taken(self) -> bytes:
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._size = 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return data

    def wake(self, alarm: Alarm | None, at: float) -> None:
        """Ring an alarm at a time of the loop's, and abort when it says so; None: no more.

        The timer of an earlier request serves again where it rings early enough: a timer each would cost more.
        """
        self._alarm = alarm
        if alarm is None or self.lost or (self._timer is not None and self._timer_at <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_at(at, self._ring), at

    def _ring(self) -> None:
        self._timer = None
        if self._alarm is None:
            return
        again = self._alarm.ring()
        if again is None:
            self.abort()
        else:
            self.wake(self._alarm, again)

    def abort(self) -> None:
        """Cut the connection; whoever reads gets ConnectionAbortedError."""
        self._fail(ConnectionAbortedError())
        self._transport.abort()

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if self._into is not None and self._pieces:
            try:
                if self._into(self._taken()) and not self._ended and self._error is None:
                    return
            except Exception as error:
                waiter.set_exception(error)
                return
        waiter.set_result(None)

    def _fail(self, error: OSError) -> None:
        if not self._ended and self._error is None:
            self._error = error
            self._wake()

    # --- called by the loop ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        """A piece of an answer."""
        if self._ended:
            self._transport.abort()  # nobody asked
            return
        self.answered = True
        if self._status is None:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(NotHttp("The engine sent what is not HTTP."))
            self._transport.abort()
            return
        if self._status is None and self._head_bytes > _MAX_HEAD_BYTES:
            self._fail(NotHttp("The head of the engine's answer is too large."))
            self._transport.abort()
            return
        if self._size > _HIGH_WATER_BYTES and not self._ended and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        if self._status is not None:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self.lost = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._ended:
            if exc is None and self._status is not None and not self._framed:
                self._ended = True  # a body without a length ends with its connection
                self._wake()
            else:
                self._fail(exc if isinstance(exc, OSError) else ClosedEarly())
        self.resume_writing()

    def pause_writing(self) -> None:
        """The node takes a request more slowly than we write it."""
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """It has caught up."""
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None

    # --- called by the parser --------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """An answer begins."""
        if self._ended:
            self._keeps = False  # a second answer to one request

    def on_header(self, name: bytes, _value: bytes) -> None:
        """One header: only those count that say where the body ends."""
        if len(name) in (14, 17) and name.lower() in (b"content-length", b"transfer-encoding"):
            self._framed = True

    def on_headers_complete(self) -> None:
        """The head is whole."""
        if self._ended:
            return
        status = self._parser.get_status_code()
        if status < 200:  # "continue", and others that only announce the answer
            self._interim, self._framed = True, False
            return
        self._keeps = self._parser.should_keep_alive()
        self._status = status
        if self._bodiless:
            # The parser cannot be told: it would take what comes next for the body.
            self._keeps, self._ended = False, True

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if not self._ended:
            self._pieces.append(body)
            self._size += len(body)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if self._interim:
            self._interim = False
        else:
            self._ended = True

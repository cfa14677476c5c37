"""The answer of a node, read as events."""

import os
import re
import ssl
from collections.abc import Awaitable, Callable

from deployment.errors import EngineError, EngineProtocolError, EngineUnavailable, StreamIncomplete
from deployment.ollama_connection.node_socket import ClosedEarly, NodeSocket, NotHttp
from deployment.ollama_connection.timeouts import Watch
from deployment.ollama_wire import (
    MAX_LINE_BYTES,
    Event,
    LineSplitter,
    Take,
    delta_of,
    end_of,
    give,
    incomplete,
    object_of,
)

_AFTER_END_S = 1.0
_ERRNO = re.compile(r"\[Errno (\d+)\]")


class Answer:
    """The events of a response with status 200."""

    __slots__ = ("_failure", "_lines", "_socket", "_started", "_streamed", "_watch", "ended")

    def __init__(self, socket: NodeSocket, watch: Watch, streamed: bool) -> None:
        self._socket = socket
        self._watch = watch
        self._streamed = streamed
        self._lines = LineSplitter()
        self._failure: EngineError | None = None
        self._started = False
        self.ended = False

    async def read(self) -> list[Event]:
        """The next events, at least one; sets `ended` with the end marker."""
        if self._failure is not None:
            raise self._failure
        if not self._streamed:
            events = self._parse([await read_all(self._socket, MAX_LINE_BYTES)])
            if not self.ended:
                raise self._failure or incomplete()
            return events
        events = []
        while not events:
            self._watch.wait()
            chunk = await self._socket.read()
            events = self._parse(self._lines.feed(chunk) if chunk else [self._lines.rest()])
            if not chunk and not self.ended:
                self._cut()
            if not events and self._failure is not None:
                raise self._failure
        return events

    async def relay(self, take: Take) -> None:
        """Give every event to come to `take`, as it comes; returns once the end marker was taken."""
        held: list[Event] = []  # what came with an event after which to wait
        slow: Awaitable[None] | None = None

        def into(chunk: bytes) -> bool:
            nonlocal slow
            events = self._parse(self._lines.feed(chunk))
            for at, event in enumerate(events):
                if (slow := take(event)) is not None:
                    held.extend(events[at + 1 :])
                    return False
            self._watch.wait()
            return self._failure is None and not self.ended

        while not self.ended and self._failure is None:
            self._watch.wait()
            await self._socket.pour(into)
            if slow is not None:
                await slow
                slow = None
            elif self._socket.at_end and not self.ended:
                held.extend(self._parse([self._lines.rest()]))
                if not self.ended:
                    self._cut()
            await give(held, take)
            held.clear()
        if self._failure is not None:
            raise self._failure

    async def drain(self) -> None:
        """Read to the end of the body, so that the connection can serve again."""
        if self._socket.at_end:
            return
        self._watch.got_tokens(_AFTER_END_S)
        try:
            self._watch.wait()
            while await self._socket.read():
                self._watch.wait()
        except OSError:
            pass  # the answer is whole; only the connection is lost

    def meaning(self, error: OSError) -> EngineError:
        """What it means here that the connection broke."""
        if not self._started:
            return unavailable(error)
        if isinstance(error, NotHttp):
            return StreamIncomplete("The engine's answer went on with what is not HTTP.")
        return incomplete("The connection broke within the answer")

    def _parse(self, lines: list[bytes]) -> list[Event]:
        """Events of whole lines; what is wrong with a line is raised after the events before it."""
        events: list[Event] = []
        try:
            for line in lines:
                if not line or line.isspace():
                    continue
                raw = object_of(line)
                if raw.get("done"):
                    delta, done = end_of(raw)
                    events += (delta, done) if delta else (done,)
                    self.ended = True
                    break
                events.append(delta_of(raw))
        except EngineError as error:
            self._failure = error
        if events:
            self._started = True
            if not self.ended:
                self._watch.got_tokens()
        return events

    def _cut(self) -> None:
        # Half a line after good ones is a cut stream; with nothing before it, it never was one.
        half_a_line = self._started and type(self._failure) is EngineProtocolError
        if self._failure is None or half_a_line:
            self._failure = incomplete()


async def read_all(socket: NodeSocket, limit: int, moved: Callable[[], None] | None = None) -> bytes:
    """The whole body, of at most `limit` bytes; `moved` is called for each piece of it."""
    parts: list[bytes] = []
    size = 0
    while chunk := await socket.read():
        parts.append(chunk)
        size += len(chunk)
        if moved is not None:
            moved()
        if size > limit:
            raise EngineProtocolError(f"The engine's answer is larger than {limit >> 20} MB.")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def unreachable(error: OSError) -> EngineError:
    """What it means that no connection came about."""
    return EngineUnavailable(f"The engine cannot be reached: {_reason(error)}.")


def unavailable(error: OSError) -> EngineError:
    """What it means that a connection failed."""
    if isinstance(error, NotHttp):
        return EngineProtocolError(str(error))
    if isinstance(error, ClosedEarly):
        return EngineUnavailable("The engine closed the connection without an answer.")
    return EngineUnavailable(f"The connection to the engine broke: {_reason(error)}.")


def _reason(error: OSError) -> str:
    """Why, without the node's address, which callers need not know: the loop puts it into its texts."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return error.reason or "TLS failed"
    found = _ERRNO.findall(str(error))  # of several addresses: the last
    number = error.errno or (int(found[-1]) if found else 0)
    if number > 0:
        return os.strerror(number)
    return error.strerror or type(error).__name__

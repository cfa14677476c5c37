"""The answer of a node, read as events."""

import os

import aiohttp

from deployment.errors import EngineError, EngineProtocolError, EngineUnavailable
from deployment.ollama_connection.timeouts import Watch
from deployment.ollama_wire import MAX_LINE_BYTES, Event, LineSplitter, delta_of, end_of, incomplete, object_of

_AFTER_END_S = 1.0


class Answer:
    """The events of a response with status 200."""

    __slots__ = ("_failure", "_lines", "_response", "_started", "_streamed", "_watch", "ended")

    def __init__(self, response: aiohttp.ClientResponse, watch: Watch, streamed: bool) -> None:
        self._response = response
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
            events = self._parse([await read_all(self._response, MAX_LINE_BYTES)])
            if not self.ended:
                raise self._failure or incomplete()
            return events
        events = []
        while not events:
            self._watch.wait()
            chunk = await self._response.content.readany()
            events = self._parse(self._lines.feed(chunk) if chunk else [self._lines.rest()])
            if not chunk and not self.ended:
                self._cut()
            if not events and self._failure is not None:
                raise self._failure
        return events

    async def drain(self) -> None:
        """Read to the end of the body, so that the connection can serve again."""
        if self._response.content.at_eof():
            return
        self._watch.got_tokens(_AFTER_END_S)
        try:
            while not self._response.content.at_eof():
                self._watch.wait()
                await self._response.content.readany()
        except (aiohttp.ClientError, OSError):
            pass  # the answer is whole; only the connection is lost

    def broken(self, error: Exception) -> EngineError:
        """What a broken connection means here."""
        if self._started:
            return incomplete("The connection broke within the answer")
        return unavailable(error)

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


async def read_all(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The whole body, of at most `limit` bytes."""
    parts: list[bytes] = []
    size = 0
    while chunk := await response.content.readany():
        parts.append(chunk)
        size += len(chunk)
        if size > limit:
            raise EngineProtocolError(f"The engine's answer is larger than {limit >> 20} MB.")
    return b"".join(parts)


def unavailable(error: Exception) -> EngineError:
    """What it means that a connection failed."""
    if isinstance(error, aiohttp.ClientResponseError):
        return EngineProtocolError("The engine sent what is not HTTP.")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return EngineUnavailable("The engine closed the connection without an answer.")
    why = _reason(error)
    if isinstance(error, aiohttp.ClientConnectorError):
        return EngineUnavailable(f"The engine cannot be reached: {why}.")
    return EngineUnavailable(f"The connection to the engine broke: {why}.")


def _reason(error: Exception) -> str:
    """Why, without the node's address, which callers need not know: asyncio puts it into `strerror`."""
    if not isinstance(error, OSError):
        return type(error).__name__
    if error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or type(error).__name__

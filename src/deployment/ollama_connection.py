"""The connection to a node: one pool of sockets, time-outs, answers read as events. No meaning of its own."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, BinaryIO

import aiohttp
import orjson

from deployment.errors import (
    EngineError,
    EngineProtocolError,
    EngineTimeout,
    EngineUnavailable,
    InvalidRequest,
)
from deployment.ollama_wire import (
    MAX_LINE_BYTES,
    Event,
    LineSplitter,
    delta_of,
    end_of,
    error_of,
    incomplete,
    object_of,
)

_JSON = {"Content-Type": "application/json"}
_KEEP_ALIVE_S = 30.0
_AFTER_END_S = 1.0
_MAX_UNARY_BYTES = 256 * 1024 * 1024
_MAX_ERROR_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a node may take, in seconds: to connect, to its first token, between tokens, in all.

    An answer that is not streamed comes in one piece, so that only `connect` and `total` bound it.
    """

    connect: float = 3.0
    first_token: float = 120.0
    token: float = 30.0
    total: float = 600.0


class Connection:
    """The sockets to the node at `host`. Opens them at the first request; a given session stays open."""

    def __init__(self, host: str, timeouts: Timeouts, session: aiohttp.ClientSession | None) -> None:
        self.host = host
        self._timeouts = timeouts
        self._session = session
        self._owned = session is None

    async def close(self) -> None:
        """Close our sockets, those in use too. The next request opens new ones."""
        if self._owned and self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def events(
        self, path: str, body: Mapping[str, Any], limits: Timeouts | None = None
    ) -> AsyncGenerator[Event, None]:
        """POST `body`; the deltas of the answer, then exactly one Done. `aclose()` aborts the connection."""
        limits = limits or self._timeouts
        streamed = body.get("stream", True) is not False
        loop = asyncio.get_running_loop()
        watch = _Watch(loop, limits.first_token if streamed else limits.total, limits)
        response = await self._send("POST", path, encode(body), watch.deadline, watch.late, limits.connect)
        answer = _Answer(response, watch, streamed)
        try:
            watch.start(response)
            if response.status != 200:
                raise error_of(response.status, await _read(response, _MAX_ERROR_BYTES))
            while not answer.ended:
                for event in await answer.read():
                    yield event
            await answer.drain()
        except (aiohttp.ClientError, OSError) as error:
            raise self.noted(watch.late() if watch.expired else answer.broken(error)) from None
        except EngineError as error:
            raise self.noted(error) from None
        finally:
            watch.stop()
            response.close()

    async def call(
        self, method: str, path: str, data: bytes | BinaryIO | None = None, within: float | None = None
    ) -> tuple[int, bytes]:
        """Any other request: the status and the whole body of its answer, `within` seconds or `total`."""
        limit = self._timeouts.total if within is None else within

        def late() -> EngineTimeout:
            return EngineTimeout(f"The engine did not answer within {limit:g} s.")

        deadline = asyncio.get_running_loop().time() + limit
        response = await self._send(method, path, data, deadline, late, self._timeouts.connect)
        try:
            async with asyncio.timeout_at(deadline):
                return response.status, await _read(response, _MAX_UNARY_BYTES)
        except TimeoutError:
            raise self.noted(late()) from None
        except (aiohttp.ClientError, OSError) as error:
            raise self.noted(_unavailable(error)) from None
        except EngineError as error:
            raise self.noted(error) from None
        finally:
            response.close()

    def noted(self, error: EngineError) -> EngineError:
        """Callers of the gateway read the message, and need not learn our addresses; logs show the note."""
        error.add_note(f"engine: {self.host}")
        return error

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            tracing = aiohttp.TraceConfig()
            tracing.on_connection_reuseconn.append(_mark_reused)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                trace_configs=[tracing],
                trust_env=False,
            )
        return self._session

    async def _send(
        self,
        method: str,
        path: str,
        data: bytes | BinaryIO | None,
        deadline: float,
        late: Callable[[], EngineTimeout],
        connect: float,
    ) -> aiohttp.ClientResponse:
        """Send a request and wait for the head of its answer.

        A node may close an idle connection just as we reuse it: then once more, on another.
        """
        again = isinstance(data, bytes)
        while True:
            use = _Use()
            try:
                async with asyncio.timeout_at(deadline):
                    return await self._opened().request(
                        method,
                        self.host + path,
                        data=data,
                        headers=_JSON if isinstance(data, bytes) else None,
                        timeout=aiohttp.ClientTimeout(total=None, connect=connect),
                        allow_redirects=False,
                        trace_request_ctx=use,
                    )
            except aiohttp.ConnectionTimeoutError:
                raise self.noted(EngineTimeout(f"No connection to the engine within {connect:g} s.")) from None
            except TimeoutError:
                raise self.noted(late()) from None
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if not (again and use.reused):
                    raise self.noted(_unavailable(error)) from None
                again = False
            except aiohttp.ClientError as error:
                raise self.noted(_unavailable(error)) from None


@dataclass(slots=True)
class _Use:
    """Whether a request went out on a connection that was used before."""

    reused: bool = False


async def _mark_reused(
    _session: aiohttp.ClientSession, context: SimpleNamespace, _params: aiohttp.TraceConnectionReuseconnParams
) -> None:
    if isinstance(context.trace_request_ctx, _Use):
        context.trace_request_ctx.reused = True


class _Watch:
    """The time-outs of one stream, on one timer that is moved only when it rings: no work per token.

    It counts while we wait for the node, not while the consumer is busy; the total counts always.
    """

    __slots__ = ("_end", "_first", "_handle", "_limit", "_limits", "_loop", "_response", "_since", "expired")

    def __init__(self, loop: asyncio.AbstractEventLoop, first: float, limits: Timeouts) -> None:
        self._loop = loop
        self._limits = limits
        self._limit = first
        self._since: float | None = loop.time()
        self._end = self._since + limits.total
        self._first = True
        self._handle: asyncio.TimerHandle | None = None
        self._response: aiohttp.ClientResponse | None = None
        self.expired = False

    @property
    def deadline(self) -> float:
        """When the wait that goes on now is over, on the loop's clock."""
        since = self._loop.time() if self._since is None else self._since
        return min(self._end, since + self._limit)

    def start(self, response: aiohttp.ClientResponse) -> None:
        """From now on, close the response when its time is over."""
        self._response = response
        self._arm()

    def stop(self) -> None:
        """No more time-outs."""
        if self._handle is not None:
            self._handle.cancel()

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
        if sooner:
            self._arm()

    def late(self) -> EngineTimeout:
        """Which time-out it was."""
        limits = self._limits
        if self._loop.time() >= self._end - 0.01:
            return EngineTimeout(f"The request took longer than {limits.total:g} s in all.")
        if self._first:
            return EngineTimeout(f"The engine gave no first token within {limits.first_token:g} s.")
        return EngineTimeout(f"The engine was silent for {limits.token:g} s between two tokens.")

    def _arm(self) -> None:
        self.stop()
        self._handle = self._loop.call_at(self.deadline, self._ring)

    def _ring(self) -> None:
        if self._loop.time() < self.deadline:
            self._arm()
            return
        self.expired = True
        if self._response is not None:
            self._response.close()


class _Answer:
    """The events of a response with status 200."""

    __slots__ = ("_failure", "_lines", "_response", "_started", "_streamed", "_watch", "ended")

    def __init__(self, response: aiohttp.ClientResponse, watch: _Watch, streamed: bool) -> None:
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
            events = self._parse([await _read(self._response, MAX_LINE_BYTES)])
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
        return _unavailable(error)

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


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while chunk := await response.content.readany():
        parts.append(chunk)
        size += len(chunk)
        if size > limit:
            raise EngineProtocolError(f"The engine's answer is larger than {limit >> 20} MB.")
    return b"".join(parts)


def _unavailable(error: Exception) -> EngineError:
    if isinstance(error, aiohttp.ClientResponseError):
        return EngineProtocolError("The engine sent what is not HTTP.")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return EngineUnavailable("The engine closed the connection without an answer.")
    why = (error.strerror or type(error).__name__) if isinstance(error, OSError) else type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorError):
        return EngineUnavailable(f"The engine cannot be reached: {why}.")
    return EngineUnavailable(f"The connection to the engine broke: {why}.")


def encode(body: Mapping[str, Any]) -> bytes:
    """The bytes of a request's body."""
    try:
        return orjson.dumps(body)
    except TypeError as error:
        raise InvalidRequest(f"The request cannot be written as JSON: {error}.") from None

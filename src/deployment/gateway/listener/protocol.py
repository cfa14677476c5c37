"""Uvicorn's HTTP protocol with what it lacks: bounds on a request's head, its time, and the number of connections.

The parser (llhttp) refuses by itself what is ambiguous: two lengths, a length beside chunks, a folded header.
"""

import asyncio
import re
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import unquote

import httptools
import orjson
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from deployment.errors import InvalidRequest, RamseyError, RequestTimeout
from deployment.gateway.errors_out import dialect_of, error_body
from deployment.gateway.listener.connection import EXTENSION
from deployment.gateway.listener.cycle import Cycle

_MAX_HEAD_BYTES = 64 * 1024
_MAX_HEADERS = 100
_MAX_URL_BYTES = 8 * 1024
# Decoded, these would be another path than the one that a proxy's rules saw, or what no name of ours holds.
_MISLEADING = re.compile(rb"%(?:[01][0-9a-f]|7f)|^[^?]*%(?:2f|5c)", re.IGNORECASE)
_VERSIONS = frozenset({"1.0", "1.1"})
_LINGER_S = 2.0
_SPARE = 16  # connections beyond the limit that are still told why they are refused


@dataclass(frozen=True, slots=True)
class WireLimits:
    """What one caller may take of the server before its request is understood."""

    connections: int
    head_seconds: float
    body_seconds: float


class _HeadTooLarge(RamseyError):
    code = "head_too_large"
    status = 431


class _UrlTooLong(RamseyError):
    code = "url_too_long"
    status = 414


class _TooManyConnections(RamseyError):
    code = "too_many_connections"
    status = 503


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    Two clocks run, never at once: one until the head of a request is there, one until its body is. A request that
    comes in one piece starts neither.
    """

    def __init__(self, *args: Any, limits: WireLimits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._deadline: asyncio.TimerHandle | None = None
        self._in_head = self._in_body = self._refused = self._surplus = False
        self._head_bytes = self._hosts = 0
        self._coding: bytes | None = None
        self._refusal: RamseyError | None = None
        self._answering: Cycle | None = None
        self._idle_since: float | None = None
        self._idle_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn
        """Take the connection; beyond the limit, its first request is answered with 503."""
        super().connection_made(transport)
        count, limit = len(self.connections), self._limits.connections
        self._surplus = count > limit
        if count > limit + _SPARE + limit // 10:
            transport.abort()
            return
        self._within(self._limits.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._no_deadline()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        super().connection_lost(exc)
        if self._answering is not None and not self._answering.response_complete:
            self._answering.lost()

    def data_received(self, data: bytes) -> None:
        """Parse a piece of a request, unless this connection was refused already."""
        if self._refused:
            return
        super().data_received(data)
        if self._refused or self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self._refuse(_head_too_large())
        if self._deadline is None:
            if self._in_body:
                self._within(self._limits.body_seconds)
            elif self._in_head or self.cycle is None or self.cycle.response_complete:
                self._within(self._limits.head_seconds)

    # Called by the parser. An error raised here comes back as a parser's error, to send_400_response.

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head, self._head_bytes, self._hosts, self._coding = True, 0, 0, None

    def on_url(self, url: bytes) -> None:
        """A part of its URL."""
        self.url += url
        if len(self.url) > _MAX_URL_BYTES:
            self._stop(_UrlTooLong("The URL is too long.", hint=f"At most {_MAX_URL_BYTES} bytes are taken."))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, whole. One that comes behind the body is none: nobody in front of us has seen it."""
        self._head_bytes += len(name) + len(value)
        name = name.lower()
        if self._in_head:
            self.headers.append((name, value))
        if len(self.headers) > _MAX_HEADERS or self._head_bytes > _MAX_HEAD_BYTES:
            self._stop(_head_too_large())
        if name == b"host":
            self._hosts += 1
        elif name == b"transfer-encoding":
            self._coding = value.strip().lower()
        elif name == b"expect" and self._in_head and value.lower() == b"100-continue":
            self.expect_100_continue = True

    def on_headers_complete(self) -> None:
        """The head is there: the application begins."""
        self._in_head = False
        self._no_deadline()
        if self._surplus:
            self._stop(_too_many())
        version = self.parser.get_http_version()
        if self._hosts != 1 and (self._hosts or version == "1.1"):
            self._stop(InvalidRequest("The request needs exactly one Host header."))
        if version not in _VERSIONS:
            self._stop(InvalidRequest("HTTP of this version is not spoken here; 1.1 and 1.0 are."))
        if self._coding is not None and (self._coding != b"chunked" or version == "1.0"):
            self._stop(InvalidRequest("Of transfer codings, only chunked is taken, and only with HTTP/1.1."))
        if b"%" in self.url and _MISLEADING.search(self.url):
            self._stop(InvalidRequest("The URL has an encoded slash, backslash or control character."))
        self._in_body = True
        self._begin(version)

    def _begin(self, version: str) -> None:
        """Uvicorn's own end of `on_headers_complete`, with a cycle of ours."""
        url, scope = httptools.parse_url(self.url), self.scope
        path = url.path.decode("ascii")
        scope["method"] = self.parser.get_method().decode("ascii")
        scope["http_version"] = version
        scope["path"] = self.root_path + (unquote(path) if "%" in path else path)
        scope["raw_path"] = self.root_path.encode("ascii") + url.path
        scope["query_string"] = url.query or b""
        previous = self.cycle
        self.cycle = cycle = Cycle(
            scope,
            self.transport,
            self.flow,
            self.logger,
            self.access_logger,
            False,
            self.server_state.default_headers,
            asyncio.Event(),
            self.expect_100_continue,
            version != "1.0" and self.parser.should_keep_alive(),
            self.on_response_complete,
        )
        scope["extensions"] = {EXTENSION: cycle}  # type: ignore[dict-item] # ours
        if previous is None or previous.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:  # pipelined: in turn
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cast(Cycle, cycle)
        super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        """The body is there."""
        self._in_body = False
        self._no_deadline()
        super().on_message_complete()
        if self.cycle is not None and self.cycle.response_complete and self._idle_since is None:
            self._idle()  # answered before its body had come

    def on_response_complete(self) -> None:
        """An answer is written: the next request, or nothing to do for a while."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._idle()

    def _idle(self) -> None:
        """From now on. The timer of an earlier time serves again: one for each request would cost more."""
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._look_whether_idle)

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = None

    def _look_whether_idle(self) -> None:
        self._idle_timer = None
        if self._idle_since is None or self.transport.is_closing():
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left <= 0:
            self.transport.close()
        else:
            self._idle_timer = self.loop.call_later(left, self._look_whether_idle)

    def _unsupported_upgrade_warning(self) -> None:
        """To another protocol: none is spoken here, and a caller could fill the log with warnings. The request is
        answered as it is; what follows it was meant for that protocol, so that the connection ends."""
        self.cycle.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        """What cannot be parsed, or what one of the callbacks above stopped."""
        self._refuse(self._refusal or InvalidRequest("This is no valid HTTP request."))

    # --- deadlines and refusals --------------------------------------------------------------------------

    def _within(self, seconds: float) -> None:
        self._deadline = self.loop.call_later(seconds, self._too_slow)

    def _no_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if self._in_body:
            self.transport.abort()  # the application, which waits for the body, takes it for a caller who left
        elif self._in_head:
            self._refuse(RequestTimeout(f"The request did not arrive within {self._limits.head_seconds:g} s."))
        else:
            self.transport.close()

    def _stop(self, refusal: RamseyError) -> None:
        self._refusal = refusal
        raise refusal

    def _refuse(self, refusal: RamseyError) -> None:
        """Answer without the application, and close. What still comes is thrown away for a moment: closing at once
        would reset the connection, and the caller would see that instead of the answer."""
        self._refused = True
        self._no_deadline()
        self._unset_keepalive_if_required()
        if self.cycle is not None and not self.cycle.response_complete and not self._given_up(self.cycle):
            return
        path = getattr(self, "url", b"").decode("latin-1")
        body = orjson.dumps(error_body(refusal, dialect_of(path), ""))
        retry = b"retry-after: 1\r\n" if refusal.status == 503 else b""
        self.transport.write(
            STATUS_LINE.get(refusal.status, b"HTTP/1.1 400 Bad Request\r\n")
            + b"content-type: application/json\r\nx-content-type-options: nosniff\r\nconnection: close\r\n"
            + retry
            + b"content-length: %d\r\n\r\n" % len(body)
            + body
        )
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(_LINGER_S, self.transport.close)

    def _given_up(self, cycle: RequestResponseCycle) -> bool:
        """Whether the refusal is this request's own answer: its body is wrong, and nothing was said to it yet."""
        if not self._in_body:
            cycle.keep_alive = False  # what is wrong came after it: it is answered, and then nothing more
            return False
        if self.pipeline or cycle.response_started:
            self.transport.close()
            return False
        cycle.disconnected = True
        cycle.message_event.set()
        return True


def _head_too_large() -> RamseyError:
    return _HeadTooLarge(
        "The request's headers are too large.",
        hint=f"At most {_MAX_HEADERS} headers and {_MAX_HEAD_BYTES // 1024} KiB are taken.",
    )


def _too_many() -> RamseyError:
    return _TooManyConnections("This server has too many connections.", hint="Ask again.", retry_after_s=1)

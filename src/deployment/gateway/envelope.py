"""Around every HTTP request: its id, its record, one log line and one count at its end, errors in the dialect."""

import asyncio
import contextlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
import structlog
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployment.errors import Forbidden, InvalidRequest, MethodNotAllowed, NotFound, RamseyError, Unauthenticated
from deployment.gateway.encoder import unique_id
from deployment.gateway.errors_out import dialect_of, error_body
from deployment.gateway.exchange import CANCELLED
from deployment.gateway.listener import connection_of
from deployment.gateway.listener.headers import CSP, NO_PAGE, Header, lines_of
from deployment.gateway.listener.proxies import TrustedProxies
from deployment.gateway.startup import told_plainly
from deployment.telemetry import Metrics, RequestRecord, info_line

_REQUEST_ID = re.compile(r"^[A-Za-z0-9._:-]{1,128}$")
_QUIET = frozenset({"/health/live", "/health/ready", "/health", "/metrics"})  # probes would drown the log
_LINGER_S = 2.0
_log = structlog.get_logger("request")
Refused = Callable[[RamseyError, Scope, str], None]
"""Takes the error that refused access, the connection and the request's id."""


class Envelope:
    """ASGI middleware: pure, because the generic kind costs more than the rest of the request."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        refused: Refused,
        proxies: TrustedProxies,
        headers: Sequence[Header] = (),
        pages: Mapping[str, bytes] | None = None,
    ) -> None:
        """`refused` hears of every refused access; `headers` come with every answer; `pages` are content security
        policies by path, where the strict one is not for them."""
        self._app, self._metrics, self._pages = app, metrics, pages or {}
        self._headers = tuple(headers)
        self._common = lines_of([*self._headers, (CSP, NO_PAGE)])
        self._refused = refused
        self._line: Callable[[dict[str, Any]], None] | None = None  # once logging is set up
        self._proxies = proxies if proxies else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the request inside its envelope."""
        if scope["type"] != "http":
            await told_plainly(self._app, scope, receive, send)
            return
        record = RequestRecord(request_id=_request_id(scope), method=scope["method"])
        scope.setdefault("state", {})["record"] = record
        started = time.perf_counter()
        responded = False

        async def send_with_id(message: Message) -> None:
            nonlocal responded
            if message["type"] == "http.response.start":
                responded = True
                record.status = message["status"]
                own = message.get("headers", ())
                message["headers"] = [*own, (b"x-request-id", record.request_id.encode()), *self._headers]
                if not any(name == CSP for name, _ in own):
                    message["headers"].append((CSP, self._pages.get(scope["path"], NO_PAGE)))
            await send(message)

        if (connection := connection_of(scope)) is not None:
            connection.common = b"x-request-id: %b\r\n%b" % (record.request_id.encode(), self._common)
            connection.outermost = send_with_id
        self._metrics.in_flight += 1
        try:
            if self._proxies is not None:
                self._proxies.resolve(scope)
            if (client := scope.get("client")) is not None:
                record.client = client[0]
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            record.status, record.error = CANCELLED, "cancelled"
        except Exception as error:
            if responded or (connection is not None and connection.begun):
                record.error = RamseyError.code
                _log.exception("unexpected error after the answer began", request_id=record.request_id)
                raise
            if isinstance(error, Unauthenticated | Forbidden):
                self._refused(error, scope, record.request_id)
            await send_error(send_with_id, scope, receive, record, error)
        finally:
            self._metrics.in_flight -= 1
            self._finish(scope, record, (time.perf_counter() - started) * 1e3)

    def _finish(self, scope: Scope, record: RequestRecord, duration_ms: float) -> None:
        if (route := scope.get("route")) is not None:
            record.endpoint = route.path
        self._metrics.observe(record, duration_ms)
        if record.endpoint not in _QUIET or record.status >= 500:
            if self._line is None:
                self._line = info_line("request", "request", asyncio.get_running_loop().call_soon)
            self._line(record.as_log(duration_ms))


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text: str = value.decode("latin-1")
            if _REQUEST_ID.match(text):
                return text
    return unique_id()


async def send_error(send: Send, scope: Scope, receive: Receive, record: RequestRecord, error: Exception) -> None:
    """Answer with an error in the dialect of the path. What we did not expect is told without its details."""
    if isinstance(error, HTTPException):
        error = _from_http(error, scope)
    if not isinstance(error, RamseyError):
        _log.error("unexpected error", request_id=record.request_id, exc_info=error)
        error = RamseyError("Something went wrong inside Ramsey.", hint=f"The log has it as {record.request_id}.")
    record.error = error.code
    body = orjson.dumps(error_body(error, dialect_of(scope["path"]), record.request_id))
    headers: dict[str, Any] = {"content-type": "application/json", "content-length": str(len(body))}
    if error.retry_after is not None:
        headers["retry-after"] = error.retry_after
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.status in (408, 413):
        headers["connection"] = "close"  # the rest of the body is not read
    raw = MutableHeaders(headers).raw
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    if scope["method"] == "HEAD":
        body = b""
    if error.status == 413:
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await _linger(receive)
        body = b""
    await send({"type": "http.response.body", "body": body})


async def _linger(receive: Receive) -> None:
    """Take a little more of a body that is refused: closing at once would reset the connection, and the caller
    would see that instead of the answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            while (await receive()).get("more_body"):
                pass


def _from_http(error: HTTPException, scope: Scope) -> RamseyError:
    if error.status_code == 405:
        return MethodNotAllowed(f"{scope['method']} is not offered here.", hint="See /docs for what is.")
    if error.status_code == 404:
        return NotFound("There is no such endpoint.", hint="See /docs for what there is.")
    if error.status_code < 500:
        return InvalidRequest("The request cannot be understood.", hint="See /docs.")
    return RamseyError(str(error.detail))

"""An exchange with a caller: its work, cancelled when the caller leaves, and the count of those in progress."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

import orjson
import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deployment.access import LimitReached, Limits, ratelimit_headers
from deployment.errors import Draining, EngineTimeout, RamseyError
from deployment.gateway.cache import Answers
from deployment.gateway.errors_out import error_body
from deployment.gateway.listener import CallerConnection, caller_of
from deployment.releases import RecentAnswers
from deployment.telemetry import RequestRecord

CANCELLED = 499  # the caller left before the answer; nobody reads this status but our own log
_STREAMED = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))
"""Nobody between us and the caller may hold pieces back."""

_log = structlog.get_logger("gateway")


class Exchanges:
    """The exchanges in progress: counted for the drain, and given up when their caller stops reading."""

    def __init__(self, slow_client_seconds: float, now: Callable[[], float]) -> None:
        """`now`: monotonic seconds."""
        self._active: set[Exchange] = set()
        self._now = now
        self._slow = slow_client_seconds
        self._idle = asyncio.Event()
        self._idle.set()
        self.loop: asyncio.AbstractEventLoop | None = None
        """The one that runs, once `watch` does: to ask for it is a system call each time."""

    def __len__(self) -> int:
        return len(self._active)

    def add(self, exchange: "Exchange") -> None:
        """Count an exchange from now on."""
        self._active.add(exchange)
        self._idle.clear()

    def discard(self, exchange: "Exchange") -> None:
        """It is over."""
        self._active.discard(exchange)
        if not self._active:
            self._idle.set()

    async def wait_idle(self, seconds: float) -> bool:
        """Wait until none is left; False when the time is over first."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def watch(self) -> None:
        """Give up exchanges whose caller takes nothing. One timer for all: a token costs nothing more."""
        self.loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(1.0, self._slow / 4))
            for exchange in tuple(self._active):
                if exchange.blocked_since and self._now() - exchange.blocked_since > self._slow:
                    exchange.cut(EngineTimeout("The caller did not read its answer."))

    def cut_all(self) -> None:
        """End every exchange with an error in its dialect: the drain's time is over."""
        for exchange in tuple(self._active):
            exchange.cut(Draining("The server stopped before the answer was complete.", hint="Ask again."))


@dataclass(slots=True)
class Wire:
    """What an exchange needs of the gateway."""

    answers: Answers
    exchanges: Exchanges
    limits: Limits
    clock: Callable[[], float]  # monotonic seconds
    recent: RecentAnswers


class Exchange(Response, ABC):
    """An ASGI response that does its work while it watches the caller: a caller who leaves cancels it."""

    def __init__(self, wire: Wire, record: RequestRecord, dialect: str, headers: dict[str, str]) -> None:
        self._wire, self._record, self._dialect, self._extra = wire, record, dialect, headers
        self._began = wire.clock()
        self._started = False
        self._cut: RamseyError | None = None
        self._left = False
        self._caller: CallerConnection
        self._task: asyncio.Task[None] | None = None
        self.background = None
        self.blocked_since = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, unless the caller leaves first."""
        task = self._task = cast("asyncio.Task[None]", asyncio.current_task(self._wire.exchanges.loop))
        self._wire.exchanges.add(self)
        caller = self._caller = caller_of(scope, receive, send)
        caller.when_gone(self._leave)
        try:
            await self._run()
        except asyncio.CancelledError:
            if not self._left and self._cut is None:
                raise  # the server itself gives this request up
            task.uncancel()
            if self._cut is None:
                self._record.status, self._record.error = CANCELLED, "cancelled"
            else:
                await self._fail(self._cut)
        finally:
            self._task = None
            self._wire.exchanges.discard(self)
            caller.when_gone(None)

    def cut(self, error: RamseyError) -> None:
        """End this exchange from outside, telling the caller why where it still listens."""
        if self._give_up():
            self._cut = error

    def _leave(self) -> None:
        if self._give_up():
            self._left = True

    def _give_up(self) -> bool:
        """Cancel the work, once."""
        if self._task is None or self._left or self._cut is not None:
            return False
        self._task.cancel()
        return True

    async def _run(self) -> None:
        try:
            await self._answer()
        except RamseyError as error:
            await self._fail(error)

    @abstractmethod
    async def _answer(self) -> None: ...

    def _error_after_start(self, error: RamseyError) -> bytes:
        """What is written when the answer had begun; by default it is just cut."""
        return b""

    def _elapsed_ms(self) -> float:
        return (self._wire.clock() - self._began) * 1e3

    async def _start(self, status: int, media_type: str, length: int | None = None) -> None:
        self._record.status = status
        headers = [(b"content-type", media_type.encode())]
        headers += [(name.encode(), value.encode("latin-1", "replace")) for name, value in self._extra.items()]
        if length is None:
            headers += _STREAMED
        self._started = True
        if (ready := self._caller.begin(status, headers, length)) is not None:
            await ready

    async def _reads_on(self, ready: Awaitable[None]) -> None:
        """Wait for a caller who reads more slowly than we write."""
        self.blocked_since = self._wire.clock()
        await ready
        self.blocked_since = 0.0

    async def _send_json(self, status: int, body: bytes) -> None:
        await self._start(status, "application/json", len(body))
        if (ready := self._caller.write(body, more=False)) is not None:
            await self._reads_on(ready)

    async def _fail(self, error: RamseyError) -> None:
        """Tell the caller: with a status while none was sent, else in the dialect's way, without an end."""
        self._record.error = error.code
        _log.warning("request failed", request_id=self._record.request_id, code=error.code, reason=error.message)
        if self.blocked_since:
            return  # its socket is full: one more piece would wait for ever
        if self._started:
            if (ready := self._caller.write(self._error_after_start(error), more=False)) is not None:
                await ready
            return
        if error.retry_after is not None:
            self._extra["retry-after"] = error.retry_after
        if isinstance(error, LimitReached):
            self._extra |= ratelimit_headers(error.facts, error.limit)
            if error.retry_after_s is None:
                self._extra["x-should-retry"] = "false"  # OpenAI's clients would ask again, twice
        await self._send_json(error.status, orjson.dumps(error_body(error, self._dialect, self._record.request_id)))

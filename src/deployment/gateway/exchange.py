"""One inference on the wire: from the pool's events to the caller's socket, cancelled when the caller leaves."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import orjson
import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deployment.access import LimitReached, Limits, Principal, ratelimit_headers
from deployment.engines import Call
from deployment.errors import Draining, EngineTimeout, RamseyError, StreamIncomplete
from deployment.gateway.cache import MISS, Answers, Opened
from deployment.gateway.encoder import Encoder, Times
from deployment.gateway.errors_out import error_body
from deployment.gateway.inference import most_tokens
from deployment.gateway.kept import Kept
from deployment.gateway.listener import CallerConnection, connection_of
from deployment.gateway.observed import Observed
from deployment.ollama_client import Done, collect
from deployment.releases import RecentAnswers
from deployment.telemetry import RequestRecord

CANCELLED = 499  # the caller left before the answer; nobody reads this status but our own log

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
        self._connection: CallerConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self.background = None
        self.blocked_since = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, unless the caller leaves first."""
        task = self._task = cast("asyncio.Task[None]", asyncio.current_task(self._wire.exchanges.loop))
        self._wire.exchanges.add(self)
        self._connection = connection_of(scope)
        forget = self._when_gone(receive)
        try:
            await self._run(send)
        except asyncio.CancelledError:
            if not self._left and self._cut is None:
                raise  # the server itself gives this request up
            task.uncancel()
            if self._cut is None:
                self._record.status, self._record.error = CANCELLED, "cancelled"
            else:
                await self._fail(send, self._cut)
        finally:
            self._task = None
            self._wire.exchanges.discard(self)
            forget()

    def cut(self, error: RamseyError) -> None:
        """End this exchange from outside, telling the caller why where it still listens."""
        if self._give_up():
            self._cut = error

    def _when_gone(self, receive: Receive) -> Callable[[], object]:
        """Give up when the caller leaves; returns how to forget that. Our own listener says it, at no cost; under
        another server a task has to wait for it."""
        if self._connection is not None:
            self._connection.when_gone(self._leave)
            return partial(self._connection.when_gone, None)
        return asyncio.create_task(_wait_until_gone(receive, self._leave)).cancel

    def _leave(self) -> None:
        if self._give_up():
            self._left = True

    def _give_up(self) -> bool:
        """Cancel the work, once."""
        if self._task is None or self._left or self._cut is not None:
            return False
        self._task.cancel()
        return True

    async def _run(self, send: Send) -> None:
        try:
            await self._answer(send)
        except RamseyError as error:
            await self._fail(send, error)

    @abstractmethod
    async def _answer(self, send: Send) -> None: ...

    def _error_after_start(self, error: RamseyError) -> bytes:
        """What is written when the answer had begun; by default it is just cut."""
        return b""

    def _elapsed_ms(self) -> float:
        return (self._wire.clock() - self._began) * 1e3

    async def _start(self, send: Send, status: int, media_type: str, length: int | None = None) -> None:
        self._record.status = status
        headers = [(b"content-type", media_type.encode())]
        headers += [(name.encode(), value.encode("latin-1", "replace")) for name, value in self._extra.items()]
        if length is None:
            headers += [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
        else:
            headers.append((b"content-length", b"%d" % length))
        if self._connection is not None:
            self._connection.join_next()
        await send({"type": "http.response.start", "status": status, "headers": headers})
        self._started = True

    async def _send_json(self, send: Send, status: int, body: bytes) -> None:
        await self._start(send, status, "application/json", len(body))
        self.blocked_since = self._wire.clock()
        await send({"type": "http.response.body", "body": body})
        self.blocked_since = 0.0

    async def _fail(self, send: Send, error: RamseyError) -> None:
        """Tell the caller: with a status while none was sent, else in the dialect's way, without an end."""
        self._record.error = error.code
        _log.warning("request failed", request_id=self._record.request_id, code=error.code, reason=error.message)
        if self.blocked_since:
            return  # its socket is full: one more send would wait for ever
        if self._started:
            await send({"type": "http.response.body", "body": self._error_after_start(error)})
            return
        if error.retry_after_s is not None:
            self._extra["retry-after"] = str(max(1, round(error.retry_after_s)))
        if isinstance(error, LimitReached):
            self._extra |= ratelimit_headers(error.facts)
        await self._send_json(
            send, error.status, orjson.dumps(error_body(error, self._dialect, self._record.request_id))
        )


class Generation(Exchange):
    """One call on the pool, its events written by an encoder: as a stream, or gathered into one piece."""

    def __init__(
        self,
        wire: Wire,
        call: Call,
        encoder: Encoder,
        record: RequestRecord,
        dialect: str,
        headers: dict[str, str],
        principal: Principal,
        *,
        bypass_cache: bool,
        default_output: int,
        rollout: str | None,
        subject: str,
        observed: Observed | None,
        kept: Kept | None,
    ) -> None:
        """`rollout`: the one that its release was drawn in; `subject`: whose request; `observed`: who measures it;
        `kept`: where it is kept."""
        super().__init__(wire, record, dialect, headers)
        self._rollout, self._observed, self._kept = rollout, observed, kept
        self._call, self._encoder, self._bypass = call, encoder, bypass_cache
        self._principal, self._subject, self._default_output = principal, subject, default_output
        self._pieces = 0

    async def _answer(self, send: Send) -> None:
        record, observed = self._record, self._observed
        try:
            await self._answer_limited(send)
        except BaseException as error:
            if observed is not None:
                observed.failed(error, record)
            raise
        self._wire.recent.note(
            self._principal.tenant, record.request_id, self._call.release, self._rollout, self._subject
        )
        if observed is not None:
            observed.succeeded(record)
        if self._kept is not None:
            self._kept.succeeded(record)

    async def _answer_limited(self, send: Send) -> None:
        body, record = self._call.body, self._record
        most = most_tokens(body, default_output=self._default_output)
        with await self._wire.limits.reserve(self._principal, record.model or "", most) as reservation:
            if reservation.facts:
                self._extra |= ratelimit_headers(reservation.facts)
                body["options"].setdefault("num_predict", self._default_output)  # what was reserved is a promise
            try:
                await self._answer_within(send)
            except asyncio.CancelledError:
                if self._cut is None:  # its caller left: what was made until then counts
                    reservation.settle(self._call_chars() // _CHARS_PER_TOKEN, self._pieces)
                raise
            reservation.settle(record.prompt_tokens, record.completion_tokens)

    def _call_chars(self) -> int:
        body = self._call.body
        return len(body.get("prompt") or "") + sum(len(m.get("content") or "") for m in body.get("messages") or ())

    async def _answer_within(self, send: Send) -> None:
        answer = await self._wire.answers.open(self._call, bypass=self._bypass)
        record = self._record
        record.node, record.attempts, record.queue_ms = answer.node, answer.attempts, answer.queue_ms
        record.cache = answer.cache
        record.first_token_ms = self._elapsed_ms()
        if answer.node is not None:
            self._extra["x-ramsey-node"] = answer.node
        if answer.cache is not None:
            self._extra["x-ramsey-cache"] = answer.cache
        if self._observed is not None:
            answer.events = self._observed.over(answer.events, stream=self._call.body["stream"])
        if self._kept is not None:
            answer.events = self._kept.over(answer.events)
        try:
            if self._call.body["stream"]:
                await self._stream(answer, send)
            else:
                await self._whole(answer, send)
        finally:
            await answer.close()

    async def _stream(self, answer: Opened, send: Send) -> None:
        encoder, now = self._encoder, self._wire.clock
        await self._start(send, 200, encoder.media_type)
        if begin := encoder.begin():
            await send({"type": "http.response.body", "body": begin, "more_body": True})
        async for event in answer.events:
            if isinstance(event, Done):
                chunk, more = encoder.end(event, self._account(event)), False
            else:
                chunk, more = encoder.delta(event), True
                self._pieces += 1
            if chunk or not more:
                self.blocked_since = now()
                await send({"type": "http.response.body", "body": chunk, "more_body": more})
                self.blocked_since = 0.0
            if not more:
                return
        raise StreamIncomplete(_NO_END)

    async def _whole(self, answer: Opened, send: Send) -> None:
        whole = await collect(answer.events)
        await self._send_json(send, 200, self._encoder.whole(whole, self._account(whole.done)))

    def _error_after_start(self, error: RamseyError) -> bytes:
        return self._encoder.error(error)

    def _account(self, done: Done) -> Times:
        record = self._record
        total = self._elapsed_ms()
        if record.cache not in (None, MISS):
            return Times(0.0, record.first_token_ms or 0.0, total)  # no node worked for this caller
        record.prompt_tokens, record.completion_tokens = done.prompt_tokens, done.completion_tokens
        record.load_ms, record.completion_ms = done.load_ms, done.completion_ms
        if not self._call.body["stream"]:
            # One JSON object came at the end: its first token had come before the time that the rest took.
            record.first_token_ms = max(0.0, total - done.completion_ms)
        return Times(record.queue_ms or 0.0, record.first_token_ms or 0.0, total)


class Unary(Exchange):
    """A call with one JSON answer (embeddings, show), under the same watch."""

    def __init__(
        self,
        wire: Wire,
        ask: Callable[[], Awaitable[dict[str, Any]]],
        encode: Callable[[dict[str, Any]], bytes],
        record: RequestRecord,
        dialect: str,
        headers: dict[str, str],
        principal: Principal,
        most_tokens: int,
    ) -> None:
        super().__init__(wire, record, dialect, headers)
        self._ask, self._encode, self._principal, self._most = ask, encode, principal, most_tokens

    async def _answer(self, send: Send) -> None:
        with await self._wire.limits.reserve(self._principal, self._record.model or "", self._most) as reservation:
            self._extra |= ratelimit_headers(reservation.facts)
            result = await self._ask()
            self._record.prompt_tokens = result.get("prompt_eval_count", 0)
            reservation.settle(self._record.prompt_tokens)
        await self._send_json(send, 200, self._encode(result))


_CHARS_PER_TOKEN = 4
_NO_END = "The engine ended the answer without its end marker."


async def _wait_until_gone(receive: Receive, call: Callable[[], None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    call()

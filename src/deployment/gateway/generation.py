"""The two kinds of exchange: an answer from the pool's events, and one JSON answer."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from deployment.access import Answer, Principal, ratelimit_headers
from deployment.engines import Call
from deployment.errors import RamseyError, StreamIncomplete
from deployment.gateway.cache import MISS, Opened
from deployment.gateway.encoder import Encoder, Times
from deployment.gateway.exchange import Exchange, Wire
from deployment.gateway.inference import Most
from deployment.gateway.kept import Kept
from deployment.gateway.observed import Observed
from deployment.ollama_client import Done, Event, Gathered, Take
from deployment.telemetry import RequestRecord

_CHARS_PER_TOKEN = 4
_NO_END = "The engine ended the answer without its end marker."


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
        most: Most,
        answer_field: str,
        rollout: str | None,
        subject: str,
        observed: Observed | None,
        kept: Kept | None,
    ) -> None:
        """`most`: what it may use; `rollout`: the one that its release was drawn in; `subject`: whose request;
        `observed`: who measures it; `kept`: where it is kept."""
        super().__init__(wire, record, dialect, headers)
        self._rollout, self._observed, self._kept = rollout, observed, kept
        self._call, self._encoder, self._bypass = call, encoder, bypass_cache
        self._principal, self._subject = principal, subject
        self._most, self._answer_field = most, answer_field
        self._pieces = 0
        self._ended = False

    async def _answer(self) -> None:
        record, observed = self._record, self._observed
        try:
            await self._answer_limited()
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

    async def _answer_limited(self) -> None:
        body, record = self._call.body, self._record
        most, answer = sum(self._most), Answer(self._most.answer, self._answer_field)
        with await self._wire.limits.reserve(self._principal, record.model or "", most, answer) as reservation:
            if reservation.facts:
                self._extra |= ratelimit_headers(reservation.facts)
                body["options"]["num_predict"] = answer.tokens  # what was reserved is a promise
            try:
                await self._answer_within()
            except asyncio.CancelledError:
                if self._cut is None:  # its caller left: what was made until then counts
                    reservation.settle(self._call_chars() // _CHARS_PER_TOKEN, self._pieces)
                raise
            reservation.settle(record.prompt_tokens, record.completion_tokens)

    def _call_chars(self) -> int:
        body = self._call.body
        return len(body.get("prompt") or "") + sum(len(m.get("content") or "") for m in body.get("messages") or ())

    async def _answer_within(self) -> None:
        answer = await self._wire.answers.open(self._call, bypass=self._bypass)
        record = self._record
        record.node, record.attempts, record.queue_ms = answer.node, answer.attempts, answer.queue_ms
        record.cache = answer.cache
        record.first_token_ms = self._elapsed_ms()
        if answer.node is not None:
            self._extra["x-ramsey-node"] = answer.node
        if answer.cache is not None:
            self._extra["x-ramsey-cache"] = answer.cache
        try:
            if self._call.body["stream"]:
                await self._stream(answer)
            else:
                await self._whole(answer)
        finally:
            await answer.close()

    async def _stream(self, answer: Opened) -> None:
        encoder = self._encoder
        await self._start(200, encoder.media_type)
        if (begin := encoder.begin()) and (ready := self._caller.write(begin, more=True)) is not None:
            await self._reads_on(ready)
        await answer.relay(self._looked_at(self._pass_on))
        if not self._ended:
            raise StreamIncomplete(_NO_END)

    def _pass_on(self, event: Event) -> Awaitable[None] | None:
        if isinstance(event, Done):
            self._ended = True
            piece, more = self._encoder.end(event, self._account(event)), False
        else:
            self._pieces += 1
            piece, more = self._encoder.delta(event), True
        ready = self._caller.write(piece, more=more) if piece or not more else None
        return None if ready is None else self._reads_on(ready)

    async def _whole(self, answer: Opened) -> None:
        gathered = Gathered()
        await answer.relay(self._looked_at(gathered.take))
        whole = gathered.whole()
        await self._send_json(200, self._encoder.whole(whole, self._account(whole.done)))

    def _looked_at(self, take: Take) -> Take:
        """The same taker, measured and kept where somebody asked for that."""
        if self._kept is not None:
            take = self._kept.over(take)
        if self._observed is not None:
            take = self._observed.over(take, stream=self._call.body["stream"])
        return take

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

    async def _answer(self) -> None:
        with await self._wire.limits.reserve(self._principal, self._record.model or "", self._most) as reservation:
            self._extra |= ratelimit_headers(reservation.facts)
            result = await self._ask()
            self._record.prompt_tokens = result.get("prompt_eval_count", 0)
            reservation.settle(self._record.prompt_tokens)
        await self._send_json(200, self._encode(result))

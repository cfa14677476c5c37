"""From a call to an answer that has begun: a slot, an attempt, another node while nothing was sent."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from deployment.engines.admission import Admission, Slot
from deployment.engines.answer import Answer
from deployment.engines.attempt import Attempt, Plan, Tools
from deployment.engines.hedge import Hedger
from deployment.engines.model import Call
from deployment.engines.placement import Ask
from deployment.engines.prefix import block_hashes, text_of
from deployment.errors import EngineCrashed, EngineError, EngineTimeout, EngineUnavailable, RamseyError
from deployment.ollama_client import Event
from deployment.settings import PoolSettings

_TOKEN_CHARS = 4  # about so many characters make a token
_USUAL_TOKENS = 256  # what an answer is taken to be where the caller sets no limit
_SAME_NODE_WAIT_S = 0.05
_SHORT_S = 2.0  # whole answers that usually take less come in one piece


@dataclass(slots=True)
class Progress:
    """A request on its way."""

    call: Call
    ask: Ask
    cost: float
    began: float
    deadline: float
    queue_deadline: float
    attempts: int = 0
    waited_s: float = 0.0
    long: bool = False
    """A whole answer was not there in the usual time: hung, or just long."""


class Failover:
    """Opens calls."""

    def __init__(
        self,
        settings: PoolSettings,
        admission: Admission,
        tools: Tools,
        hedger: Hedger,
        keep_alive: str | int,
    ) -> None:
        self._settings = settings
        self._admission = admission
        self._tools = tools
        self._hedger = hedger
        self._keep_alive = keep_alive

    async def open(self, call: Call) -> Answer:
        """An answer whose first event has come. Raises what the last node raised, or the queue's refusal."""
        way = self.begin(call)
        body = {"stream": True, **call.body, "model": call.release, "keep_alive": self._keep_alive}
        while True:
            slot = await self.slot(way)
            attempt = Attempt(self._tools, slot, self._plan(way, body, slot.on.learned.service_s))
            try:
                attempt, first = await self._first(attempt, way, body)
            except EngineError as error:
                way.long = way.long or attempt.out_of_limit
                await self.after_failure(way, attempt.node.name, error)
                continue
            now = self._tools.clock.monotonic()
            return Answer(
                attempt,
                first,
                release=call.release,
                attempts=way.attempts,
                queue_ms=way.waited_s * 1e3,
                first_event_ms=(now - way.began) * 1e3,
            )

    async def request(self, path: str, release: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """One JSON answer of work that takes a slot: /api/embed, /api/embeddings."""
        way = self.begin(Call(path, release, dict(body)))
        asked = {**body, "model": release, "keep_alive": self._keep_alive}
        while True:
            slot = await self.slot(way)
            left = max(0.001, way.deadline - self._tools.clock.monotonic())
            name, metrics = slot.node.name, self._tools.metrics
            try:
                answer = await slot.node.client.request("POST", path, asked, timeout_s=left)
            except EngineError as error:
                metrics.attempt(name, release, error.code)
                self._tools.outcomes.failed(slot.node, release, error)
                slot.free()
                await self.after_failure(way, name, error)
            else:
                metrics.attempt(name, release, "ok")
                self._tools.outcomes.succeeded(slot.node)
                return answer
            finally:
                slot.free()

    async def look(self, path: str, release: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """One JSON answer that takes no slot: /api/show."""
        ask = Ask(release)
        error: EngineError = EngineUnavailable("No node can be asked.")
        while (node := self._admission.best(ask)) is not None:
            try:
                return await node.client.request(
                    "POST", path, {**body, "model": release}, timeout_s=self._settings.health_timeout
                )
            except EngineError as failed:
                if not failed.retryable:
                    raise
                ask.excluded.add(node.name)
                error = failed
        raise self._final(error)

    def begin(self, call: Call) -> Progress:
        """Limits and what placement wants to know."""
        now = self._tools.clock.monotonic()
        total = self._tools.timeouts.total
        total = total if call.timeout_s is None else min(call.timeout_s, total)
        text = text_of(call.body)
        many = len(self._admission.nodes) > 1 and self._settings.affinity_blocks
        hashes = block_hashes(call.release, text) if many else ()
        ask = Ask(call.release, len(text), hashes, call.session)
        cost = len(text) / _TOKEN_CHARS + _wanted_tokens(call.body)
        wait = min(total, self._settings.queue_timeout)
        return Progress(call, ask, cost, now, now + total, now + wait)

    async def slot(self, way: Progress) -> Slot:
        """The next slot for it, with the wait counted."""
        call, clock = way.call, self._tools.clock
        began = clock.monotonic()
        slot = await self._admission.acquire(
            way.ask,
            tenant=call.tenant,
            priority=call.priority,
            cost=way.cost,
            deadline=way.deadline if way.attempts else way.queue_deadline,
            again=way.attempts > 0,
        )
        way.waited_s += clock.monotonic() - began
        way.attempts += 1
        return slot

    async def after_failure(self, way: Progress, node: str, error: EngineError) -> None:
        """Return to try again; raise `error` when that is no use."""
        now = self._tools.clock.monotonic()
        # A grammar that ends one runner ends the next too: such a request must not go through the pool node by node.
        poison = isinstance(error, EngineCrashed) and (way.call.body.get("format") or way.call.body.get("tools"))
        if poison or not error.retryable or way.attempts >= self._settings.attempts or now >= way.deadline:
            raise self._final(error)
        way.ask.excluded.add(node)
        others = {n.name for n in self._admission.nodes.values() if not n.draining} - way.ask.excluded
        if not others:
            # Nobody else is left. What failed at once may be over at once; what hung would hang again.
            if isinstance(error, EngineTimeout) and not way.long:
                raise self._final(error)
            way.ask.excluded.clear()
            await asyncio.sleep(_SAME_NODE_WAIT_S * way.attempts)
        self._tools.metrics.retry(node, way.call.release)

    def _plan(self, way: Progress, body: dict[str, Any], service_s: float | None) -> Plan:
        """A whole answer is asked of the node as a stream, which tells hanging from being long.

        Where answers are short that would cost more than it saves: there it comes in one piece, within a limit,
        and only if it is late it is asked again as a stream.
        """
        whole = body["stream"] is False
        limit_s = None
        if whole and not way.long and service_s is not None and service_s < _SHORT_S:
            limit_s = max(self._tools.timeouts.token, _SHORT_S)
        elif whole:
            body = {**body, "stream": True}
        return Plan(way.call.path, body, whole, way.deadline, partial(self._settle, way), limit_s)

    def _settle(self, way: Progress, tokens: int) -> None:
        call = way.call
        self._admission.correct(call.release, call.tenant, call.priority, tokens - way.cost)

    async def _first(self, attempt: Attempt, way: Progress, body: dict[str, Any]) -> tuple[Attempt, list[Event]]:
        after_s = self._hedger.after(way.call.release, whole=body["stream"] is False)
        if after_s is None:
            return attempt, await attempt.first()

        def second() -> Attempt | None:
            ask = replace(way.ask, excluded={*way.ask.excluded, attempt.node.name})
            slot = self._admission.spare(ask)
            if slot is None:
                return None
            return Attempt(self._tools, slot, self._plan(way, body, None))

        return await self._hedger.race(attempt, second, after_s)

    def _final(self, error: EngineError) -> RamseyError:
        if error.status == 503 and error.retry_after_s is None:
            now = self._tools.clock.monotonic()
            waits = [n.breaker.retry_at - now for n in self._admission.nodes.values() if n.breaker.retry_at]
            error.retry_after_s = max(1.0, min(waits, default=1.0))
        return error


def _wanted_tokens(body: Mapping[str, Any]) -> int:
    options = body.get("options")
    wanted = options.get("num_predict") if isinstance(options, dict) else None
    return wanted if isinstance(wanted, int) and wanted > 0 else _USUAL_TOKENS

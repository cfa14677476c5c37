"""One try of a request on one node: its stream, its slot, its outcome. Each ends exactly once."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from deployment.clock import Clock
from deployment.engines.admission import Slot
from deployment.engines.metrics import PoolMetrics
from deployment.engines.outcomes import Outcomes
from deployment.engines.warm import Warmer
from deployment.errors import EngineError, EngineTimeout, EngineUnavailable, StreamIncomplete
from deployment.ollama_client import Done, Event, Events, Take, Timeouts

_SILENT = "The node stopped answering before the first token."


@dataclass(slots=True)
class Tools:
    """What attempts share."""

    clock: Clock
    metrics: PoolMetrics
    outcomes: Outcomes
    warmer: Warmer
    timeouts: Timeouts
    loop: asyncio.AbstractEventLoop | None = None
    """The one that runs, once the pool has started: to ask for it is a system call each time."""


class Plan(NamedTuple):
    """What to ask of a node, and how."""

    path: str
    body: Mapping[str, Any]
    whole: bool
    """The caller takes the answer in one piece: nothing is sent before its end, so that all of it may fail."""
    deadline: float
    """Of the request, in monotonic seconds."""
    settle: Callable[[int], None] = lambda _tokens: None
    """Told the tokens of prompt and answer, once, at the end marker."""
    limit_s: float | None = None
    """A shorter limit for this attempt, which says nothing bad about the node."""


class Attempt:
    """Holds a slot from its construction on; `finish` in any way gives it back."""

    def __init__(self, tools: Tools, slot: Slot, plan: Plan) -> None:
        self._tools = tools
        self._slot = slot
        self._plan = plan
        self._deadline = plan.deadline
        self._began = tools.clock.monotonic()
        self._first_at: float | None = None
        self._open = True
        self._events: Events | None = None
        self._limited = False
        self._waiting: asyncio.Task[Any] | None = None
        self._given_up = False
        self.node = slot.node
        self.done = False

    @property
    def release(self) -> str:
        """What it asks for."""
        return self._slot.on.release

    @property
    def first_s(self) -> float:
        """To the first event, in seconds."""
        return (self._first_at or self._tools.clock.monotonic()) - self._began

    @property
    def out_of_limit(self) -> bool:
        """Whether it was the attempt's own limit that ended it."""
        return self._limited and self._tools.clock.monotonic() - self._began >= (self._plan.limit_s or 0.0)

    async def first(self) -> list[Event]:
        """The first event, or all of a whole answer. An EngineError, or a cancellation, ends the attempt."""
        task = self._waiting = cast("asyncio.Task[Any]", asyncio.current_task(self._tools.loop))
        cancelled_before = task.cancelling()
        waits = self.node.first_waits
        waits.add(self)
        try:
            events = await self._begin()
        except asyncio.CancelledError:
            if not self._given_up or task.uncancel() > cancelled_before:
                raise
            raise EngineUnavailable(_SILENT) from None
        finally:
            self._waiting = None
            waits.discard(self)
        self._tools.metrics.first_token(self.node.name, self._slot.on.release, self.first_s)
        return events

    def give_up(self) -> None:
        """The node fell silent: stop waiting for its first event."""
        if self._waiting is not None and not self._given_up:
            self._given_up = True
            self._waiting.cancel()

    async def _begin(self) -> list[Event]:
        try:
            if self._slot.on.loaded is False:
                await self._loaded()
            plan = self._plan
            self._events = self.node.client.events(plan.path, plan.body, timeouts=self._limits())
        except BaseException as error:
            self._end(error)
            raise
        events: list[Event] = []
        while (event := await self.next()) is not None:
            events.append(event)
            if self.done or not self._plan.whole:
                break
        return events

    async def next(self) -> Event | None:
        """The next event; None after the end marker, when the stream is read to its end."""
        if self._events is None:
            return None
        try:
            event = await self._events.__anext__()
        except StopAsyncIteration:
            if not self.done:
                error = StreamIncomplete("The engine ended the answer without its end marker.")
                self._end(error)
                raise error from None
            return None
        except BaseException as error:
            self._end(error)
            raise
        self._came(event)
        return event

    async def relay(self, take: Take) -> None:
        """Give every event to come to `take`, as it comes. Returns after the end marker; raises as `next`."""
        if self._events is None:
            raise StreamIncomplete("The answer was closed.")

        def took(event: Event) -> Awaitable[None] | None:
            self._came(event)
            return take(event)

        try:
            await self._events.relay(took)
        except BaseException as error:
            self._end(error)
            raise

    def _came(self, event: Event) -> None:
        now = self._tools.clock.monotonic()
        self.node.progress_at = now
        if self._first_at is None:
            self._first_at = now
        if type(event) is Done:
            self._answered(event, now)

    async def aclose(self) -> None:
        """End it: after the end marker read the rest, so that the connection serves again; else cut it."""
        events, self._events = self._events, None
        self._end(asyncio.CancelledError())
        if events is None:
            return
        try:
            if self.done:
                await anext(events, None)
        finally:
            await events.aclose()

    async def _loaded(self) -> None:
        """Wait for a load that goes on without us: a caller who leaves does not abort it."""
        limit = min(self._tools.timeouts.first_token, max(0.0, self._deadline - self._began))
        load = self._tools.warmer.ensure(self.node, self._slot.on.release)
        done, _ = await asyncio.wait({load}, timeout=limit)
        if not done:
            raise EngineTimeout(f"The model was not loaded within {limit:.0f} s.")
        if load.cancelled():
            raise EngineUnavailable("The node left the pool.")
        if error := load.result():
            raise error

    def _limits(self) -> Timeouts | None:
        left = max(0.001, self._deadline - self._tools.clock.monotonic())
        if self._plan.limit_s is not None and self._plan.limit_s < left:
            left = self._plan.limit_s
            self._limited = True
        limits = self._tools.timeouts
        return None if left > limits.total - 0.5 else limits._replace(total=left)

    def _answered(self, done: Done, now: float) -> None:
        self.done = True
        if not self._open:
            return
        self._open = False
        slot = self._slot
        service_s, on = now - self._began, slot.on
        on.loaded = True
        on.missing = False
        streamed = self._plan.body.get("stream", True)
        first_s = self.first_s if streamed else max(0.0, service_s - done.completion_ms / 1e3)
        on.learned.answered(
            at=now,
            service_s=service_s,
            first_s=first_s,
            load_s=done.load_ms / 1e3,
            prompt_s=done.prompt_ms / 1e3,
            chars=slot.chars,
            held_chars=slot.held_chars,
            seen_chars=slot.seen_chars,
            turns=slot.turns,
        )
        self._plan.settle(done.prompt_tokens + done.completion_tokens)
        self._tools.metrics.attempt(self.node.name, on.release, "ok")
        self._tools.outcomes.succeeded(self.node)
        slot.free()

    def _end(self, error: BaseException) -> None:
        if not self._open:
            return
        self._open = False
        release = self._slot.on.release
        if isinstance(error, EngineError):
            self._tools.metrics.attempt(self.node.name, release, error.code)
            # A limit shorter than the node's says little about it: a check will tell.
            if isinstance(error, EngineTimeout) and self._impatient() and not self._hangs():
                self._tools.outcomes.on_failure(self.node)
            else:
                self._tools.outcomes.failed(self.node, release, error)
        else:
            self._tools.metrics.attempt(self.node.name, release, "cancelled")
        self._slot.free()

    def _hangs(self) -> bool:
        """The node is full of what usually takes less, and gave nobody anything meanwhile.

        A check cannot tell: it would find no slot.
        """
        full = self._slot.on.in_flight >= self.node.share
        return self.out_of_limit and full and self.node.progress_at < self._began

    def _impatient(self) -> bool:
        if self.out_of_limit:
            return True
        short = self._deadline - self._began < self._tools.timeouts.total
        return short and self._tools.clock.monotonic() >= self._deadline - 0.02

"""Who gets which slot, and when. Owns the counters and the queues; no I/O beside timers.

Every request that comes in leaves in exactly one way: with a slot, refused, expired or cancelled. A slot is given
back exactly once, by `Slot.free`.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping

from deployment.clock import Clock
from deployment.engines.breaker import Phase
from deployment.engines.fair_queue import Entry
from deployment.engines.line import Line, Waiting
from deployment.engines.metrics import PoolMetrics
from deployment.engines.model import Priority
from deployment.engines.node import Node, OnNode
from deployment.engines.placement import Ask, Candidate, Decision, Policy, decide, fit
from deployment.engines.prefix import BLOCK_CHARS
from deployment.engines.seats import Survey
from deployment.errors import EngineBusy, EngineUnavailable, RamseyError, RateLimited
from deployment.settings import PoolSettings

_RETRY_AFTER_MAX_S = 600.0
_WORTH_A_WAIT_BLOCKS = 4  # reading less takes no time


class Slot:
    """One slot of a node, taken."""

    __slots__ = ("_admission", "_taken", "_ticket", "chars", "held_chars", "node", "on", "seen_chars", "turns")

    def __init__(self, admission: "Admission", node: Node, on: OnNode, ask: Ask) -> None:
        self._admission = admission
        self._taken = True
        self.node = node
        self.on = on
        self.chars = ask.chars
        self.held_chars, self.seen_chars = _known(node, on.seats.survey(ask.hashes).idle, ask)
        """Characters of the prompt that a slot holds, and that the node has ever read."""
        slots = max(node.share, 1)
        self.turns = max(on.in_flight - slots + 1, 0) / slots
        """Services of a slot that it waits for on the node, which is full."""
        self._ticket = on.seats.take(ask.hashes) if ask.hashes else None
        on.in_flight += 1

    def free(self) -> None:
        """Give it back; once, however often it is called."""
        if self._taken:
            self._taken = False
            self.on.in_flight -= 1
            if self._ticket is not None:
                self.on.seats.leave(self._ticket)
            self._admission.freed(self.on.release)


class Admission:
    """Slots and queues over the nodes that the pool has."""

    def __init__(self, settings: PoolSettings, policy: Policy, clock: Clock, metrics: PoolMetrics) -> None:
        self._settings = settings
        self._policy = policy
        self._clock = clock
        self._metrics = metrics
        self._lines: dict[str, Line] = {}
        self._placed = 0
        self.nodes: dict[str, Node] = {}
        self.places: Mapping[str, Mapping[str, str]] = {}
        """Labels of the nodes that a release belongs to; a release that is not in it belongs to every node."""
        self.on_wait: Callable[[], None] = lambda: None
        """Called when a request begins to wait."""

    # --- in ------------------------------------------------------------------------------------------------

    async def acquire(
        self, ask: Ask, *, tenant: str, priority: Priority, cost: float, deadline: float, again: bool
    ) -> Slot:
        """A slot, at once or in turn. `deadline` is in monotonic seconds; `again` goes before who waits.

        Raises RateLimited when the queue is full, EngineBusy when the deadline passes first (both with
        `retry_after_s`), EngineUnavailable when there is no node at all.
        """
        line = self._line(ask.release)
        if again or not len(line.queue):
            decision = self._decide(ask, 0.0)
            if decision.node is not None:
                return self._take(decision.node, ask)
        return await self._wait(line, ask, tenant, priority, cost, deadline, again)

    async def _wait(
        self,
        line: Line,
        ask: Ask,
        tenant: str,
        priority: Priority,
        cost: float,
        deadline: float,
        again: bool,
    ) -> Slot:
        if not self.nodes:
            raise EngineUnavailable("The pool has no node.", hint="`ramsey nodes add` adds one.")
        now = self._clock.monotonic()
        if not again and self.waiting() >= self._settings.queue_size:
            self._metrics.refused(priority)
            raise RateLimited(
                f"{self.waiting()} requests wait already.",
                hint="Come back after the time that Retry-After says.",
                retry_after_s=self._retry_after(line, now),
            )
        loop = asyncio.get_running_loop()
        entry = Entry(Waiting(ask, loop.create_future()), tenant, priority, cost, now)
        if again:
            line.queue.push_first(entry)
        else:
            line.queue.push(entry)
        expiry = loop.call_later(max(0.0, deadline - now), self._expire, line, entry)
        future = entry.item.slot
        self._dispatch(ask.release)
        if not future.done():
            self.on_wait()
        try:
            slot = await future
        except asyncio.CancelledError:
            self._metrics.left(priority, "cancelled")
            if line.queue.remove(entry, served=False):
                self._dispatch(ask.release)
            elif not future.cancelled() and future.exception() is None:
                future.result().free()  # the slot came, but nobody is left to use it
            raise
        finally:
            expiry.cancel()
        self._metrics.waited(priority, self._clock.monotonic() - now)
        return slot

    def _expire(self, line: Line, entry: Entry[Waiting]) -> None:
        if not line.queue.remove(entry, served=False):
            return
        now = self._clock.monotonic()
        self._metrics.left(entry.priority, "expired")
        error: RamseyError = EngineBusy(
            f"No slot came free within {now - entry.since:.1f} s.",
            hint="Come back after the time that Retry-After says, or add a node.",
            retry_after_s=self._retry_after(line, now),
        )
        if not entry.item.slot.done():
            entry.item.slot.set_exception(error)
        self._dispatch(entry.item.ask.release)

    def take(self, node: Node, release: str) -> Slot | None:
        """A slot of that very node, if one is free now: for checks."""
        if node.draining or node.on(release).in_flight >= node.share:
            return None
        return self._take(node.name, Ask(release))

    def spare(self, ask: Ask) -> Slot | None:
        """A slot that is free now and that nobody waits for."""
        if len(self._line(ask.release).queue):
            return None
        name = self._decide(ask, 0.0).node
        return None if name is None else self._take(name, ask)

    def best(self, ask: Ask) -> Node | None:
        """The node to ask for what takes no slot, full or not."""
        fitting = fit(self._candidates(ask), ask, self._settings.region)
        if not fitting:
            return None
        return self.nodes[min(fitting, key=lambda c: c.in_flight / c.slots).name]

    def belongs(self, node: Node, release: str) -> bool:
        """Whether the release may be on the node."""
        labels = self.places.get(release)
        return labels is None or labels.items() <= node.spec.labels.items()

    # --- out -----------------------------------------------------------------------------------------------

    def freed(self, release: str) -> None:
        """A slot came free: who is next?"""
        line = self._line(release)
        line.freed.append(self._clock.monotonic())
        if len(line.queue):
            self._dispatch(release)

    def changed(self) -> None:
        """Nodes came, went or changed: look at every queue again."""
        for release in list(self._lines):
            self._dispatch(release)

    def correct(self, release: str, tenant: str, priority: Priority, difference: float) -> None:
        """A request took `difference` more tokens than estimated."""
        line = self._line(release)
        if len(line.queue):
            line.queue.correct(tenant, priority, difference)

    def waiting(self) -> int:
        """Requests in all queues."""
        return sum(len(line.queue) for line in self._lines.values())

    def longest_wait(self, release: str) -> float:
        """How long the interactive request that waits longest for a slot of a release has waited, in seconds."""
        line = self._lines.get(release)
        entries = line.queue.in_order() if line is not None else []
        waits = [entry.since for entry in entries if entry.priority is Priority.INTERACTIVE]
        return self._clock.monotonic() - min(waits) if waits else 0.0

    def depths(self) -> Iterator[tuple[str, Priority, int]]:
        """Requests that wait, by release and band."""
        for release, line in self._lines.items():
            for priority in Priority:
                yield release, priority, line.queue.depth(priority)

    def close(self) -> None:
        """Fail whoever still waits."""
        for line in self._lines.values():
            if line.timer:
                line.timer.cancel()
            while entries := line.queue.in_order():
                for entry in entries:
                    line.queue.remove(entry, served=False)
                    if not entry.item.slot.done():
                        entry.item.slot.set_exception(EngineUnavailable("The gateway stops."))

    # --- the decision, carried out ---------------------------------------------------------------------------

    def _line(self, release: str) -> Line:
        if (line := self._lines.get(release)) is None:
            line = self._lines[release] = Line(self._settings.batch_share)
        return line

    def _dispatch(self, release: str) -> None:
        line = self._line(release)
        if line.timer is not None:
            line.timer.cancel()
            line.timer = None
        patience: float | None = None
        progress = True
        while progress:
            progress = False
            for entry in line.queue.in_order():
                ask, now = entry.item.ask, self._clock.monotonic()
                decision = self._decide(ask, now - entry.since)
                if decision.node is None:
                    if decision.patience_s is not None:
                        patience = min(patience or decision.patience_s, decision.patience_s)
                        progress = line.queue.set_aside(entry) or progress
                    continue
                line.queue.remove(entry, served=True)
                if not entry.item.slot.done():  # a cancelled caller takes itself out of the queue
                    entry.item.slot.set_result(self._take(decision.node, ask))
                progress = True
        if patience is not None and len(line.queue):
            line.timer = asyncio.get_running_loop().call_later(patience, self._dispatch, release)

    def _decide(self, ask: Ask, waited_s: float) -> Decision:
        fitting = fit(self._candidates(ask), ask, self._settings.region)
        return decide(fitting, ask, self._policy, waited_s) if fitting else Decision(None)

    def _take(self, name: str, ask: Ask) -> Slot:
        node = self.nodes[name]
        on = node.on(ask.release)
        slot = Slot(self, node, on, ask)
        self._placed += 1
        node.picked += 1.0 / node.spec.weight
        node.picked_last = self._placed
        if ask.hashes:
            node.prefixes.learn(ask.hashes)
        if ask.session:
            for other in self.nodes.values():
                if other is not node:
                    other.forget_session(ask.session)
            node.remember_session(ask.session)
        return slot

    def _candidates(self, ask: Ask) -> Iterable[Candidate]:
        look_ahead, now = self._settings.look_ahead, self._clock.monotonic()
        candidates = []
        for node in self.nodes.values():
            if not self.belongs(node, ask.release):
                continue
            survey = node.on(ask.release).seats.survey(ask.hashes)
            now_on_it = _candidate(node, ask, survey.idle, look_ahead, now)
            candidates.append(now_on_it)
            if survey.slots and self._policy.patient and survey.busy >= survey.idle + _WORTH_A_WAIT_BLOCKS:
                candidates.append(_after_a_wait(now_on_it, node, ask, survey))
        return candidates

    def _retry_after(self, line: Line, now: float) -> float:
        """When the queue as it stands will have been served: its length over the drain rate."""
        rate = line.drain_rate(now)
        if rate is None:
            services = [s for n in self.nodes.values() for on in n.releases if (s := on.learned.service_s)]
            slots = sum(node.share for node in self.nodes.values())
            rate = max(slots, 1) / (sum(services) / len(services) if services else 1.0)
        return min(max(len(line.queue) + 1, 1) / rate, _RETRY_AFTER_MAX_S)


def _known(node: Node, held_blocks: int, ask: Ask) -> tuple[int, int]:
    """Characters of the prompt's beginning that a slot holds, and that the node has ever read."""
    if ask.session is not None and node.has_session(ask.session):
        seen = ask.chars
    else:
        seen = node.prefixes.matched(ask.hashes) * BLOCK_CHARS
    return min(held_blocks * BLOCK_CHARS, seen), seen


def _after_a_wait(c: Candidate, node: Node, ask: Ask, survey: Survey) -> Candidate:
    """The same node as it will be once a slot has ended its work that holds more of this prompt than idle ones do.

    Of n slots that are as far as chance has it, the first ends after 1 / (n + 1) of a service.
    """
    matched = node.on(ask.release).learned.matched(*_known(node, survey.busy, ask))
    return c._replace(matched_chars=max(matched, c.matched_chars), turns=1.0 / (survey.slots + 1))


def _candidate(node: Node, ask: Ask, held_blocks: int, look_ahead: int, now: float) -> Candidate:
    on, checked, spec = node.on(ask.release), node.checked, node.spec
    learned = on.learned
    return Candidate(
        spec.name,
        on.in_flight,
        max(node.share, 1),
        node.share + look_ahead if node.share else 0,
        checked.ok is not False and node.breaker.phase is Phase.CLOSED,
        not on.missing and (checked.digests is None or ask.release in checked.digests),
        on.loaded is not False,
        node.draining,
        spec.region,
        spec.weight,
        learned.matched(*_known(node, held_blocks, ask)),
        learned.service_s,
        learned.overhead_s,
        learned.char_s,
        learned.load_s,
        0.0 if learned.at is None else now - learned.at,
        node.picked,
        node.picked_last,
    )

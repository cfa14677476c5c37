"""What runs beside a rollout while its state machine looks on: bringing the release onto nodes, gates, questions.

Each may be done again at any time: after a crash the next leader just does.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import structlog

from deployment.engines import NodeState, NodeView
from deployment.errors import RamseyError
from deployment.releases.judge import GuardFacts
from deployment.releases.rollout.decide import Facts
from deployment.releases.rollout.model import GateOutcome, Phase, Rollout

_TRIES = 3
_PAUSE_S = 2.0

_log = structlog.get_logger("rollouts")


class Placing(Protocol):
    """Who brings releases onto nodes."""

    async def place(self, release: str, nodes: Sequence[NodeView]) -> dict[str, str]:
        """Bring a release onto nodes; the nodes where that failed, and why. Doing it again changes nothing."""
        ...


class Gatekeeper(Protocol):
    """Who checks a release before it gets traffic."""

    async def check(self, rollout: Rollout, nodes: Sequence[NodeView]) -> tuple[GateOutcome, ...]:
        """What every gate says."""
        ...


class Prober(Protocol):
    """Who asks both releases questions with known answers."""

    async def ask(self, rollout: Rollout, told: Callable[[bool, float], None]) -> None:
        """Ask until cancelled; tell (asked of the new release, score 0 to 1) of each answer."""
        ...


class Nodes(Protocol):
    """What the pool says."""

    def view(self) -> list[NodeView]:
        """Every node as it is now."""
        ...

    def queue_wait(self, release: str) -> float:
        """How long the request that waits longest for a slot of a release has waited here, in seconds."""
        ...


@dataclass(slots=True)
class _Beside:
    """What runs beside one rollout."""

    phase: Phase
    work: asyncio.Task[Any] | None = None
    probe: asyncio.Task[None] | None = None
    trouble: str = ""
    scores: list[tuple[bool, float]] = field(default_factory=list)


class _Checks:
    """How many checks in a row each node failed, seen from outside."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[datetime | None, int]] = {}

    def failed(self, node: NodeView) -> int:
        """Up to now; 0 after one that went well."""
        at, count = self._seen.get(node.url, (None, 0))
        if node.checked_at != at:
            bad = node.state in {NodeState.UNHEALTHY, NodeState.OPEN}
            at, count = node.checked_at, count + 1 if bad else 0
            self._seen[node.url] = (at, count)
        return count


class Activities:
    """Of every rollout that runs, on the leader."""

    def __init__(self, placing: Placing, gatekeeper: Gatekeeper, prober: Prober, nodes: Nodes) -> None:
        self._placing, self._gatekeeper, self._prober, self._pool = placing, gatekeeper, prober, nodes
        self._beside: dict[str, _Beside] = {}
        self._checks = _Checks()
        self._held: dict[str, set[str]] = {}

    def facts(self, rollout: Rollout) -> Facts:
        """What is known now."""
        nodes = self.nodes_of(rollout)
        missing = tuple(node.name for node in nodes if not holds(node, rollout.to_release))
        beside = self._beside.get(rollout.id)
        result = _result(beside.work) if beside is not None and beside.phase is rollout.phase else None
        trouble = beside.trouble if beside is not None else ""
        if rollout.phase is Phase.PREPARING:
            if result is None:
                return Facts(None, trouble, missing=missing, nodes=len(nodes))
            return Facts(not result, result, missing=missing, nodes=len(nodes))
        gates = (GateOutcome("gates", False, result),) if isinstance(result, str) else result
        return Facts(gates=gates if rollout.phase is Phase.GATES else None, missing=missing, nodes=len(nodes))

    def scores(self, rollout: Rollout) -> list[tuple[bool, float]]:
        """Answers that were scored since the last time: whether the new release's, and the score."""
        beside = self._beside.get(rollout.id)
        if beside is None:
            return []
        scores, beside.scores = beside.scores, []
        return scores

    def keep(self, rollout: Rollout, scores: list[tuple[bool, float]]) -> None:
        """They could not be written down: count them the next time."""
        if (beside := self._beside.get(rollout.id)) is not None:
            beside.scores[:0] = scores

    def guards(self, rollout: Rollout, at: float) -> GuardFacts:
        """What the nodes that hold the release say of themselves; `at` in epoch seconds."""
        held = self._held.setdefault(rollout.id, set())
        held.update(node.url for node in self.nodes_of(rollout) if holds(node, rollout.to_release))
        nodes = [node for node in self._pool.view() if node.url in held]  # one that was down before says nothing of it
        return GuardFacts(
            at,
            failed_health_checks=max([0, *(self._checks.failed(node) for node in nodes)]),
            queue_wait_s=self._pool.queue_wait(rollout.to_release),
            memory_share=max((share for node in nodes if (share := node.memory_share) is not None), default=None),
            out_of_memory=any("out of memory" in (node.problem or "").lower() for node in nodes),
        )

    def nodes_of(self, rollout: Rollout) -> list[NodeView]:
        """The healthy nodes that the release belongs to."""
        wanted = rollout.plan.nodes.items()
        return [node for node in self._pool.view() if wanted <= node.labels.items() and node.state is NodeState.HEALTHY]

    def follow(self, rollout: Rollout) -> None:
        """Begin what the phase needs, end what it does not."""
        beside = self._beside.get(rollout.id)
        if beside is not None and beside.phase is rollout.phase:
            return
        if beside is not None:
            self._end(beside)
        if rollout.phase.over:
            self._beside.pop(rollout.id, None)
            return
        beside = self._beside[rollout.id] = _Beside(rollout.phase)
        if rollout.phase is Phase.PREPARING:
            beside.work = asyncio.create_task(self._prepare(rollout, beside))
        elif rollout.phase is Phase.GATES:
            beside.work = asyncio.create_task(self._check(rollout))
        elif rollout.plan.probes.rate:
            beside.probe = asyncio.create_task(self._probe(rollout, beside))

    def only(self, running: Collection[str]) -> None:
        """End what belongs to rollouts that are over."""
        for rollout in self._beside.keys() - set(running):
            self._end(self._beside.pop(rollout))
            self._held.pop(rollout, None)

    async def close(self) -> None:
        """End everything."""
        ended = [self._end(beside) for beside in self._beside.values()]
        self._beside.clear()
        await asyncio.gather(*(task for tasks in ended for task in tasks), return_exceptions=True)

    @staticmethod
    def _end(beside: _Beside) -> list[asyncio.Task[Any]]:
        tasks = [task for task in (beside.work, beside.probe) if task is not None]
        for task in tasks:
            task.cancel()
        return tasks

    async def _prepare(self, rollout: Rollout, beside: _Beside) -> str:
        """Empty when the release is on its nodes; else why not."""
        for left in reversed(range(_TRIES)):
            nodes = self.nodes_of(rollout)
            if not nodes:
                beside.trouble = f"No healthy node belongs to {rollout.to_release}."
            else:
                failed = await self._placed(rollout.to_release, nodes)
                if not failed:
                    return ""
                beside.trouble = " ".join(f"{node}: {why}" for node, why in sorted(failed.items()))
            if left:
                await asyncio.sleep(_PAUSE_S)
        return beside.trouble

    async def _placed(self, release: str, nodes: list[NodeView]) -> dict[str, str]:
        try:
            return await self._placing.place(release, nodes)
        except RamseyError as error:
            return {release: f"{error.message} {error.hint or ''}".strip()}

    async def _check(self, rollout: Rollout) -> tuple[GateOutcome, ...]:
        try:
            async with asyncio.timeout(rollout.plan.gates.timeout):
                return await self._gatekeeper.check(rollout, self.nodes_of(rollout))
        except TimeoutError:
            return (GateOutcome("time", False, f"no answer after {rollout.plan.gates.timeout:g} s."),)
        except RamseyError as error:
            return (GateOutcome("gates", False, f"{error.message} {error.hint or ''}".strip()),)

    async def _probe(self, rollout: Rollout, beside: _Beside) -> None:
        try:
            await self._prober.ask(rollout, lambda candidate, score: beside.scores.append((candidate, score)))
        except RamseyError as error:
            _log.warning("no questions are asked", rollout=rollout.id, reason=error.message)


def holds(node: NodeView, release: str) -> bool:
    """Whether a node holds a release."""
    return any(each.release == release and each.present for each in node.releases)


def _result(task: "asyncio.Task[Any] | None") -> Any:
    """What it came to; None while it runs. A fault of ours is told, and counts as a failure."""
    if task is None or not task.done() or task.cancelled():
        return None
    if (error := task.exception()) is not None:
        _log.error("unexpected", reason=repr(error))
        return f"Unexpected {type(error).__name__}: {error}"
    return task.result()

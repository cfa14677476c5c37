"""Nodes that come late, or that lost a release, get what they are to hold; until then placement passes them by."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from deployment.engines import EnginePool, NodeState, NodeView
from deployment.errors import EngineUnavailable, RamseyError
from deployment.releases.catalogue import CatalogueRoom, NodeReport, missing
from deployment.releases.traffic import Traffic, TrafficSync

_FIRST_PAUSE_S, _LAST_PAUSE_S = 5.0, 300.0

_log = structlog.get_logger("mending")


@dataclass(slots=True)
class _Refusal:
    """What failed on a node, and when to try again (the loop's time)."""

    reason: str
    pause_s: float
    again_at: float


class Mender:
    """Looks at every release that has traffic, is kept warm or mirrored to. A node that hangs holds up no other."""

    def __init__(self, room: CatalogueRoom, traffic: Traffic, sync: TrafficSync, pool: EnginePool) -> None:
        self._room, self._traffic, self._sync, self._pool = room, traffic, sync, pool
        self._problem: str | None = None
        self._refusals: dict[tuple[str, str], _Refusal] = {}
        self._works: dict[tuple[str, str], asyncio.Task[NodeReport]] = {}

    async def close(self) -> None:
        """End what goes on."""
        works = list(self._works.values())
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)

    async def mend(self) -> None:
        """One look; what follows from it goes on beside. What fails is logged, and tried again later and later."""
        try:
            entries = [await self._room.catalogue.find(name) for name in self._traffic.expected()]
            news = [await self._room.learn(entry) for entry in entries if entry is not None]
            self._problem = None
        except RamseyError as error:
            if self._problem != error.message:
                _log.warning("nodes are not mended", reason=error.message)
            self._problem = error.message
            return
        if any(news):  # another gateway brought it: the pool is to expect its digest here too
            self._sync.on_change()
        now, places = asyncio.get_running_loop().time(), self._traffic.places()
        for entry in entries:
            if entry is not None:
                nodes = belonging(self._pool.view(), places.get(entry.name, {}))
                for node in missing(entry.name, nodes):
                    if self._due(node, entry.name, now):
                        self._work(entry.name, node)

    async def bring(self, release: str, nodes: Sequence[NodeView]) -> None:
        """Bring a release onto nodes; returns when the first has it, and goes on with the others.

        Raises EngineUnavailable with every node's reason where none can have it.
        """
        works = {self._work(release, node) for node in nodes}
        failed: list[NodeReport] = []
        while works:
            done, works = await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
            reports = [work.result() for work in done if not work.cancelled()]
            if any(report.ok for report in reports):
                return
            failed += reports
        told = " ".join(f"{report.node}: {report.problem}" for report in failed)
        raise EngineUnavailable(f"{release} came onto no node. {told}")

    def _work(self, release: str, node: NodeView) -> "asyncio.Task[NodeReport]":
        key = (node.name, release)
        if (work := self._works.get(key)) is None:
            work = self._works[key] = asyncio.create_task(self._bring(release, node), name=f"mend {key}")
            work.add_done_callback(lambda _: self._works.pop(key, None))
        return work

    async def _bring(self, release: str, node: NodeView) -> NodeReport:
        try:
            report = (await self._room.place(release, [node]))[node.name]
        except RamseyError as error:
            report = NodeReport(node.name, False, problem=f"{error.message} {error.hint or ''}".strip())
        self._note(report, release)
        return report

    def _due(self, node: NodeView, release: str, now: float) -> bool:
        refusal = self._refusals.get((node.name, release))
        return refusal is None or refusal.again_at <= now

    def _note(self, report: NodeReport, release: str) -> None:
        key = (report.node, release)
        before = self._refusals.pop(key, None)
        if report.ok:
            _log.info("held", node=report.node, release=release)
            return
        reason = report.problem or ""
        if before is None or before.reason != reason:  # each reason once, however often it is tried
            _log.warning("not deployed", node=report.node, release=release, reason=reason)
        pause = _FIRST_PAUSE_S if before is None else min(before.pause_s * 2, _LAST_PAUSE_S)
        self._refusals[key] = _Refusal(reason, pause, asyncio.get_running_loop().time() + pause)


def belonging(nodes: Iterable[NodeView], labels: Mapping[str, str]) -> list[NodeView]:
    """The nodes with these labels that take work or may again."""
    return [node for node in nodes if labels.items() <= node.labels.items() and node.state is not NodeState.DRAINING]

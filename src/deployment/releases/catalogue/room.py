"""The room put together: releases, nodes and traffic in the use cases that need all three."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter

from deployment.access import Callers, Principal
from deployment.clock import Clock
from deployment.database import Database
from deployment.engines import EnginePool, NodeView
from deployment.errors import Conflict, InvalidRequest
from deployment.releases.catalogue.artefacts import Artefacts
from deployment.releases.catalogue.distribution import Distribution, NodeReport, Pruned
from deployment.releases.catalogue.evaluation import (
    Evaluation,
    Question,
    Told,
    evaluate,
    questions_file,
    read_questions,
)
from deployment.releases.catalogue.gates import (
    DigestsGate,
    EvaluationGate,
    ExecutableGate,
    Gate,
    GateContext,
    GateResult,
    LoadGate,
    MemoryGate,
    SmokeGate,
    WebhookGate,
    run_gates,
)
from deployment.releases.catalogue.model import CatalogueEntry
from deployment.releases.catalogue.routes import catalogue_routes
from deployment.releases.catalogue.service import Catalogue
from deployment.releases.catalogue.store import CatalogueStore
from deployment.releases.traffic import Traffic
from deployment.settings import Settings


@dataclass(frozen=True, slots=True)
class GateWish:
    """Which gates a release must pass."""

    skip: Collection[str] = ()
    """digests, memory, load, smoke, evaluation."""
    smoke: Sequence[str] = ("Hello.",)
    floor: float = 0.0
    margin: float = 0.05
    webhooks: Sequence[str] = ()
    commands: Sequence[Sequence[str]] = ()
    questions: Sequence[Question] | None = None
    """By default the settings' evaluation set."""


class CatalogueRoom:
    """Everything about the releases that there are. Construction opens nothing."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        pool: EnginePool,
        traffic: Traffic,
        authenticator: Callers,
        clock: Clock,
    ) -> None:
        self._settings, self._pool, self._traffic, self._clock = settings, pool, traffic, clock
        self._authenticator = authenticator
        self.catalogue = catalogue_of(settings, database, clock)
        self._read: set[str] = set()
        """Releases whose weights were asked what they read as structure: long vocabularies are read once."""
        self.leaving: Callable[[], bool] = lambda: False
        """Whether the process is about to stop: then streams of progress end."""
        self.distribution = Distribution(self.catalogue, pool, settings.releases.stall_seconds)

    def routes(self) -> APIRouter:
        """The admin API."""
        return catalogue_routes(self, self._settings, self._authenticator)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Until the end, at which works that go on are given up: they begin anew."""
        try:
            yield
        finally:
            await self.distribution.close()

    def nodes(self) -> list[NodeView]:
        """Every node as it is now."""
        return self._pool.view()

    def traffic_of(self, release: str) -> float | None:
        """Its part of its model's traffic; 0 where it is kept warm, None where it has no share."""
        split = self._traffic.split(release.rpartition(":")[0])
        return split.weight(release) if split is not None and release in split.releases else None

    async def place(self, release: str, nodes: Sequence[NodeView]) -> dict[str, NodeReport]:
        """Bring a release onto nodes, and let the pool and the gateway know it. What failed stands in the reports."""
        reports = await self.distribution.ensure(release, nodes)
        if any(report.ok for report in reports.values()):
            await self.learn(await self.catalogue.get(release))
            await self._pool.check()
        return reports

    async def learn(self, entry: CatalogueEntry) -> bool:
        """Let the gateway know the digest of a release, and its traits; whether that was news."""
        news = entry.digest != self._traffic.digest(entry.name)
        self._traffic.know_digest(entry.name, entry.digest)
        if entry.name not in self._read and await asyncio.to_thread(self.catalogue.artefacts.has, entry.weights_sha256):
            self._read.add(entry.name)
            self._traffic.learn(entry.name, await self.catalogue.traits(entry))
        return news

    async def prune(self, actor: Principal, keep: int | None = None) -> list[Pruned]:
        """Take old releases off the nodes; never one with traffic, kept warm or mirrored to."""
        protected = set(self._traffic.expected())
        return await self.distribution.prune(keep or self._settings.releases.keep, protected, actor)

    async def delete(self, name: str, actor: Principal) -> CatalogueEntry:
        """Give a release up: off the nodes, its weights gone. Raises Conflict while it has a share of the traffic."""
        entry = await self.catalogue.get(name)
        if (weight := self.traffic_of(entry.name)) is not None:
            state = f"has {weight:.0%} of the traffic" if weight else "is kept warm"
            raise Conflict(f"{entry.name} {state}.", hint="Move the traffic elsewhere first: ramsey deploy.")
        failed = [each for each in await self.distribution.remove(entry) if each.problem is not None]
        if failed:
            told = " ".join(f"{each.node}: {each.problem}" for each in failed)
            raise Conflict(f"{entry.name} could not be taken off every node. {told}", hint="Try again later.")
        return await self.catalogue.give_up(entry.name, actor)

    async def questions(self) -> tuple[Question, ...]:
        """The settings' evaluation set; empty where there is none. Raises ConfigurationError where it is wrong."""
        path = questions_file(self._settings)
        return await asyncio.to_thread(read_questions, path) if path is not None else ()

    async def evaluate(
        self,
        name: str,
        questions: Sequence[Question] | None = None,
        told: Told = lambda *_: None,
        actor: Principal | None = None,
    ) -> Evaluation:
        """Ask a release questions with known answers, and keep the score. It needs no traffic, but a node.

        Raises NotFound, InvalidRequest without questions, Conflict where it cannot be brought onto any node.
        """
        entry = await self.catalogue.get(name)
        asked = await self.questions() if questions is None else questions
        if not asked:
            raise InvalidRequest(
                "There are no questions to ask.",
                hint="Name a file: ramsey evaluate --questions eval.jsonl, or releases.questions in the settings.",
            )
        if not any(each.release == entry.name and each.present for node in self.nodes() for each in node.releases):
            await self._bring_anywhere(entry)
        found = await evaluate(self._pool, entry.name, asked, self._clock, told)
        await self.catalogue.note_evaluation(entry.name, found.document(), actor)
        return found

    async def check(
        self, name: str, nodes: Sequence[NodeView], current: str | None, wish: GateWish
    ) -> tuple[GateResult, ...]:
        """What the gates say of a release. Raises ConfigurationError for a gate that may not be."""
        gates = await self._gates(wish)
        return await run_gates(gates, GateContext(await self.catalogue.get(name), nodes, current))

    async def _gates(self, wish: GateWish) -> list[Gate]:
        questions = await self.questions() if wish.questions is None else wish.questions
        releases = self._settings.releases
        own: list[Gate] = [
            DigestsGate(),
            MemoryGate(self.catalogue.artefacts, self._settings.engine.context_length),
            LoadGate(self._pool, self._clock),
            SmokeGate(wish.smoke, self._clock),
            EvaluationGate(questions, self._score, self._scores, wish.floor, wish.margin),
        ]
        return [
            *(gate for gate in own if gate.name not in wish.skip),
            *(WebhookGate(url, releases.webhook_hosts) for url in wish.webhooks),
            *(ExecutableGate(command, releases.gates_folder) for command in wish.commands),
        ]

    async def _score(self, release: str, questions: Sequence[Question]) -> Evaluation:
        found = await evaluate(self._pool, release, questions, self._clock)
        await self.catalogue.note_evaluation(release, found.document())
        return found

    async def _scores(self, release: str) -> Mapping[str, Any] | None:
        entry = await self.catalogue.find(release)
        return entry.evaluation if entry is not None else None

    async def _bring_anywhere(self, entry: CatalogueEntry) -> None:
        reports = await self.place(entry.name, self.nodes())
        if not any(report.ok for report in reports.values()):
            told = " ".join(f"{report.node}: {report.problem}" for report in reports.values())
            raise Conflict(f"{entry.name} is on no node, and could not be brought there. {told}".strip())


def catalogue_of(settings: Settings, database: Database, clock: Clock) -> Catalogue:
    """The releases alone, for who needs no nodes."""
    artefacts = Artefacts(settings.releases_dir, settings.releases.max_bytes)
    return Catalogue(settings, CatalogueStore(database), artefacts, clock)

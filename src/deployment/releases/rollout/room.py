"""The room put together."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

from fastapi import APIRouter
from prometheus_client import CollectorRegistry

from deployment.access import Authenticator
from deployment.clock import Clock
from deployment.database import Database
from deployment.errors import RamseyError
from deployment.releases.rollout.activities import Activities, Gatekeeper, Nodes, Placing
from deployment.releases.rollout.controller import Controller
from deployment.releases.rollout.events import Notifier
from deployment.releases.rollout.leader import Leader
from deployment.releases.rollout.metrics import RolloutMetrics
from deployment.releases.rollout.model import Phase, Rollout
from deployment.releases.rollout.probes import Probes, Questions
from deployment.releases.rollout.routes import rollout_routes
from deployment.releases.rollout.service import Known, RolloutService
from deployment.releases.rollout.store import RolloutStore
from deployment.releases.traffic import TrafficStore, TrafficSync
from deployment.settings import Settings


class Releases(Placing, Gatekeeper, Questions, Known, Protocol):
    """What rollouts need of the releases."""

    async def tidy(self) -> None:
        """Take old ones off the nodes, so that only the last few stay."""
        ...


class Rollouts:
    """Everything about rollouts, over one database. Construction opens nothing."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        sync: TrafficSync,
        nodes: Nodes,
        releases: Releases,
        registry: CollectorRegistry,
        clock: Clock,
    ) -> None:
        store, traffic = RolloutStore(), TrafficStore(clock)
        self._model = settings.model.name
        self.leader = Leader(database, store, settings.data_dir, sync.gateway)
        activities = Activities(releases, releases, Probes(releases), nodes)
        self.controller = Controller(database, store, traffic, self.leader, activities, clock, sync.refresh)
        self._metrics, self._releases = RolloutMetrics(registry), releases
        self._tidy_after_s = settings.engine.request_timeout  # nobody is answered by what left the traffic then
        self._tidying: set[asyncio.Task[None]] = set()
        self.controller.on_running = self._metrics.running
        self.controller.on_end = self._ended
        self.service = RolloutService(
            database,
            store,
            traffic,
            releases,
            clock,
            settings.releases.webhook_hosts,
            sync.refresh,
            self.controller.wake,
            self._ended,
        )
        self._notifier = Notifier(database, store, lambda: self.controller.leads)

    @property
    def problems(self) -> list[str]:
        """For /health; empty when all is well."""
        return [self.controller.problem] if self.controller.problem is not None else []

    def routes(self, authenticator: Authenticator) -> APIRouter:
        """The admin API."""
        return rollout_routes(self.service, authenticator, self._model)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Lead the rollouts, or wait to, until the end."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.controller.running())
            await stack.enter_async_context(self._notifier.running())
            stack.callback(lambda: [task.cancel() for task in self._tidying])
            yield

    def _ended(self, rollout: Rollout) -> None:
        self._metrics.ended(rollout)
        if rollout.phase is Phase.DONE:
            task = asyncio.create_task(self._tidy())
            self._tidying.add(task)
            task.add_done_callback(self._tidying.discard)

    async def _tidy(self) -> None:
        await asyncio.sleep(self._tidy_after_s)
        with contextlib.suppress(RamseyError):  # it was logged; the next rollout's end tries again
            await self._releases.tidy()

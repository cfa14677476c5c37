"""The room put together."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import APIRouter
from prometheus_client import CollectorRegistry

from deployment.access import Authenticator
from deployment.clock import Clock
from deployment.database import Database
from deployment.engines import EnginePool
from deployment.releases.traffic.feedback import FeedbackService
from deployment.releases.traffic.feedback_routes import feedback_routes
from deployment.releases.traffic.feedback_store import FeedbackStore
from deployment.releases.traffic.learning import Learning
from deployment.releases.traffic.leaving import Leaving
from deployment.releases.traffic.metrics import TrafficMetrics
from deployment.releases.traffic.outcome_store import OutcomeStore
from deployment.releases.traffic.outcomes import Recorder
from deployment.releases.traffic.recent import RecentAnswers
from deployment.releases.traffic.routes import traffic_routes
from deployment.releases.traffic.service import TrafficService
from deployment.releases.traffic.shadow import Shadows
from deployment.releases.traffic.store import GatewayStore, TrafficStore
from deployment.releases.traffic.sync import TrafficSync
from deployment.releases.traffic.table import Traffic
from deployment.releases.traffic.table_file import TableFile
from deployment.settings import Settings


class TrafficRoom:
    """Everything about which release answers, over one database. Construction opens nothing."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        pool: EnginePool,
        authenticator: Authenticator,
        clock: Clock,
        registry: CollectorRegistry,
    ) -> None:
        own = settings.traffic
        self.traffic = Traffic()
        self.store, self.gateways = TrafficStore(clock), GatewayStore(clock)
        self._leaving, self._learning = Leaving(pool, self.traffic), Learning(pool, self.traffic)
        self.sync = TrafficSync(database, self.store, self.gateways, self.traffic, clock, TableFile(settings.data_dir))
        self.sync.on_change = self._follow
        self.service = TrafficService(database, self.store, self.gateways, self.traffic, self.sync, pool, clock)
        self._authenticator = authenticator
        self.outcomes = OutcomeStore()
        self.recorder = Recorder(
            database,
            self.outcomes,
            clock,
            self.sync.gateway,
            registry,
            silent_s=own.silent_seconds,
            whole_s=max(own.silent_seconds, settings.engine.first_token_timeout),
        )
        self.sync.outcomes_at = lambda: self.recorder.written_at
        self.shadows = Shadows(pool, self.recorder, clock, registry, own.shadow_concurrency)
        self.recent = RecentAnswers(own.feedback_entries)
        self.feedback_store = FeedbackStore()
        self.feedback = FeedbackService(database, self.feedback_store, self.gateways, self.recent, clock)
        registry.register(TrafficMetrics(self.traffic))

    @property
    def problems(self) -> list[str]:
        """What the room does without now, for /health; empty when all is well."""
        return [self.sync.problem] if self.sync.problem is not None else []

    async def count_gateways(self) -> int:
        """How many gateways live. Raises DatabaseUnavailable."""
        return len(await self.service.gateways())

    def routes(self) -> APIRouter:
        """The admin API, and the endpoint of votes."""
        router = APIRouter()
        router.include_router(traffic_routes(self.service, self.traffic, self._authenticator))
        router.include_router(feedback_routes(self.feedback, self._authenticator))
        return router

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow the database until the end. The access room has migrated it before."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._leaving.close)
            stack.push_async_callback(self._learning.close)
            await stack.enter_async_context(self.sync.running())
            await stack.enter_async_context(self.recorder.running())
            await stack.enter_async_context(self.feedback.running())
            stack.push_async_callback(self.shadows.close)
            yield

    def _follow(self) -> None:
        self._leaving.follow()
        self._learning.follow()

"""The room put together."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import APIRouter

from deployment.access import Authenticator
from deployment.clock import Clock
from deployment.database import Database
from deployment.engines import EnginePool
from deployment.releases.traffic.leaving import Leaving
from deployment.releases.traffic.routes import traffic_routes
from deployment.releases.traffic.service import TrafficService
from deployment.releases.traffic.store import GatewayStore, TrafficStore
from deployment.releases.traffic.sync import TrafficSync
from deployment.releases.traffic.table import Traffic
from deployment.releases.traffic.table_file import TableFile
from deployment.settings import Settings


class TrafficRoom:
    """Everything about which release answers, over one database. Construction opens nothing."""

    def __init__(
        self, settings: Settings, database: Database, pool: EnginePool, authenticator: Authenticator, clock: Clock
    ) -> None:
        self.traffic = Traffic()
        self.store, self.gateways = TrafficStore(clock), GatewayStore(clock)
        self._leaving = Leaving(pool, self.traffic)
        self.sync = TrafficSync(database, self.store, self.gateways, self.traffic, clock, TableFile(settings.data_dir))
        self.sync.on_change = self._leaving.follow
        self.service = TrafficService(database, self.store, self.gateways, self.traffic, self.sync, pool, clock)
        self._authenticator = authenticator

    @property
    def problems(self) -> list[str]:
        """What the room does without now, for /health; empty when all is well."""
        return [self.sync.problem] if self.sync.problem is not None else []

    def routes(self) -> APIRouter:
        """The admin API."""
        return traffic_routes(self.service, self.traffic, self._authenticator)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow the database until the end. The access room has migrated it before."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._leaving.close)
            await stack.enter_async_context(self.sync.running())
            yield

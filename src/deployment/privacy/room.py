"""The room put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter
from prometheus_client import CollectorRegistry

from deployment.access import Callers
from deployment.clock import Clock
from deployment.database import Database
from deployment.privacy.keeper import Keeper
from deployment.privacy.routes import privacy_routes
from deployment.privacy.sealing import Sealer
from deployment.privacy.service import PrivacyService, Votes
from deployment.privacy.store import PrivacyStore
from deployment.settings import PrivacySettings


class Privacy:
    """Everything about what is kept of people. Construction opens nothing."""

    def __init__(
        self, settings: PrivacySettings, database: Database, votes: Votes, clock: Clock, registry: CollectorRegistry
    ) -> None:
        store, self._sealer = PrivacyStore(), Sealer(settings.keys)
        sealer = self._sealer
        self.keeper = Keeper(database, store, sealer, clock, registry)
        self.service = PrivacyService(database, store, sealer, clock, votes, self.keeper.flush, self.keeper.refresh)

    @property
    def problems(self) -> list[str]:
        """What the room does without now, for /health; empty when all is well."""
        return [self.keeper.problem] if self.keeper.problem is not None else []

    def routes(self, authenticator: Callers) -> APIRouter:
        """The admin API."""
        return privacy_routes(self.service, authenticator)

    def check(self) -> None:
        """Raise ConfigurationError for a key that is none: with it, all that is to be kept would be lost."""
        self._sealer.check()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep and expire in the background until the end. The access room has migrated the database before.

        Raises ConfigurationError as `check` does.
        """
        self.check()
        async with self.keeper.running():
            yield

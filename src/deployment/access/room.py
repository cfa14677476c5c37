"""The room put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter

from deployment.access.authentication import Authenticator
from deployment.access.directory import Directory
from deployment.access.routes import admin_routes
from deployment.access.service import AccessService
from deployment.access.store import AccessStore
from deployment.access.sync import Sync
from deployment.clock import Clock
from deployment.database import Database
from deployment.settings import Settings


class Access:
    """Everything about who may call, over one database. Construction opens nothing."""

    def __init__(self, settings: Settings, database: Database, clock: Clock) -> None:
        directory, store = Directory(), AccessStore(database)
        self.authenticator = Authenticator(settings.access, settings.profile, clock, directory)
        self._sync = Sync(database.upgrade, store, directory, self.authenticator, clock)
        self.service = AccessService(store, clock, self._sync.refresh)

    @property
    def problem(self) -> str | None:
        """Why stored keys cannot be refreshed now, for /health; None when all is well."""
        return self._sync.problem

    def routes(self) -> APIRouter:
        """The admin API of keys, tenants and roles."""
        return admin_routes(self.service, self.authenticator)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Migrate the database and keep the stored keys in memory up to date until the end."""
        async with self._sync.running():
            yield

"""The room put together."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import APIRouter

from deployment.access.audit import AuditStore
from deployment.access.audit_routes import add_audit_routes
from deployment.access.authentication import Authenticator
from deployment.access.directory import Directory
from deployment.access.limits import Limits, MemoryCounters, RuleBook, SharedCounters
from deployment.access.limits.keeper import BudgetKeeper
from deployment.access.limits.store import SpendingStore
from deployment.access.oidc import Provider, TokenAuthenticator
from deployment.access.refusals import Refusals
from deployment.access.required import require_authentication
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
        self._providers = [Provider(provider, clock) for provider in settings.access.oidc]
        tokens = TokenAuthenticator(self._providers, directory, clock, settings.access.offline_seconds)
        self.authenticator = Authenticator(
            settings.access, settings.profile, clock, directory, tokens if self._providers else None
        )
        self._sync = Sync(database.upgrade, store, directory, self.authenticator, clock)
        self.service = AccessService(store, AuditStore(database), clock, self._sync.refresh)
        self.refusals = Refusals(store, clock)
        self._counters = _counters(settings, clock)
        book = RuleBook(settings.limits, clock, directory)
        self.limits = Limits(book, self._counters, settings.limits.budget_alert)
        self._spending = SpendingStore(database)
        self._settings, self._database, self._clock = settings, database, clock

    @property
    def problems(self) -> list[str]:
        """What the room does without now, for /health; empty when all is well."""
        alone = self._counters.problem if isinstance(self._counters, SharedCounters) else None
        problems = [self._sync.problem, alone, *(provider.problem for provider in self._providers)]
        return [problem for problem in problems if problem is not None]

    def routes(self) -> APIRouter:
        """The admin API of keys, tenants, roles, limits and the audit record."""
        router = admin_routes(self.service, self.authenticator)
        add_audit_routes(router, self.service, self.authenticator)
        return router

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Migrate the database and keep the stored keys in memory up to date until the end.

        Raises ConfigurationError outside development when there is no way to authenticate.
        """
        async with AsyncExitStack() as stack:
            if isinstance(self._counters, SharedCounters):
                stack.push_async_callback(self._counters.close)
            await stack.enter_async_context(self._sync.running())
            await require_authentication(self._settings, self._database, self._clock)
            await stack.enter_async_context(self.refusals.running())
            for provider in self._providers:
                await stack.enter_async_context(provider.running())
            if isinstance(self._counters, MemoryCounters):
                keeper = BudgetKeeper(self._counters, self._spending, self._clock)
                await stack.enter_async_context(keeper.running())
            yield


def _counters(settings: Settings, clock: Clock) -> MemoryCounters | SharedCounters:
    url = settings.limits.redis_url
    if url is None:
        return MemoryCounters(clock)
    # A request that lived longer than it may has died without saying so: its place is free again.
    lease_s = settings.engine.request_timeout + 60.0
    return SharedCounters.at(url.get_secret_value(), settings.limits.gateways, lease_s, clock)

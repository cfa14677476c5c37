"""The room put together."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import APIRouter
from starlette.types import ASGIApp

from deployment.access.audit import AuditStore
from deployment.access.audit_routes import add_audit_routes
from deployment.access.authentication import Authenticator
from deployment.access.directory import Directory
from deployment.access.doubts import Doubts
from deployment.access.limits import Limits, MemoryCounters, RuleBook, SharedCounters
from deployment.access.limits.keeper import BudgetKeeper
from deployment.access.limits.store import SpendingStore
from deployment.access.oidc import Provider, TokenAuthenticator
from deployment.access.recorder import Recorder
from deployment.access.refusals import Refusals
from deployment.access.required import require_authentication
from deployment.access.routes import admin_routes
from deployment.access.service import AccessService
from deployment.access.sessions import Browsers, KnownSessions, SessionService, SessionStore, add_session_routes
from deployment.access.sign_in import Desk, SignIn, sign_in_routes
from deployment.access.store import AccessStore
from deployment.access.sync import Sync
from deployment.clock import Clock
from deployment.database import Database
from deployment.settings import Settings, redis_address


class Access:
    """Everything about who may call, over one database. Construction opens nothing."""

    def __init__(self, settings: Settings, database: Database, clock: Clock) -> None:
        directory, store = Directory(), AccessStore(database)
        sessions = SessionStore(database)
        self._providers = [Provider(provider, clock) for provider in settings.access.oidc]
        tokens = TokenAuthenticator(self._providers, directory, clock, settings.access.offline_seconds)
        self._browsers = _browsers(settings, directory, clock)
        self.authenticator = Authenticator(
            settings.access, settings.profile, clock, directory, tokens if self._providers else None, self._browsers
        )
        self._sync = Sync(database.upgrade, store, sessions, directory, self.authenticator, clock)
        self.service = AccessService(store, AuditStore(database), clock, self._sync.refresh, settings.limits.prices)
        self._sessions = SessionService(sessions, clock, self._sync.refresh)
        self.refusals = Refusals(store, clock)
        self._sign_in = self._flow(settings, directory, sessions, clock)
        self.recorder = Recorder(store, clock)
        self._counters = _counters(settings, clock)
        book = RuleBook(settings.limits, clock, directory)
        self.limits = Limits(book, self._counters, settings.limits.budget_alert)
        self._spending = SpendingStore(database)
        self.doubts = Doubts(settings.limits, directory)
        self._settings, self._database, self._clock, self._directory = settings, database, clock, directory

    @property
    def problems(self) -> list[str]:
        """What the room does without now, for /health; empty when all is well."""
        alone = self._counters.problem if isinstance(self._counters, SharedCounters) else None
        problems = [self._sync.problem, alone, *(provider.problem for provider in self._providers)]
        return [problem for problem in problems if problem is not None]

    def routes(self) -> APIRouter:
        """The admin API of keys, tenants, roles, limits, sessions and the audit record."""
        router = admin_routes(self.service, self.authenticator)
        add_audit_routes(router, self.service, self.authenticator)
        add_session_routes(router, self._sessions, self.authenticator)
        return router

    def sign_in_routes(self) -> APIRouter:
        """Signing in and out with a browser, and who am I."""
        return sign_in_routes(Desk(self.authenticator, self.refusals, self._sign_in, self._browsers))

    def before(self, app: ASGIApp) -> ASGIApp:
        """What stands before an application whose callers may be browsers: sessions that are new are fetched."""
        if self._browsers is None:
            return app
        return KnownSessions(app, self._browsers, self._directory, self._sync.refresh, self._clock)

    def _flow(self, settings: Settings, directory: Directory, sessions: SessionStore, clock: Clock) -> SignIn | None:
        if self._browsers is None or settings.server.public_url is None:
            return None
        return SignIn(
            settings.server.public_url,
            settings.access.sessions.lifetime_seconds,
            self._providers,
            directory,
            sessions,
            self._sync.refresh,
            clock,
        )

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
            await stack.enter_async_context(self.recorder.running())
            for provider in self._providers:
                await stack.enter_async_context(provider.running())
            await stack.enter_async_context(self.doubts.running())
            if isinstance(self._counters, MemoryCounters):
                gateways = self._settings.limits.gateways
                keeper = BudgetKeeper(self._counters, self._spending, self._clock, gateways)
                await stack.enter_async_context(keeper.running())
            yield


def _browsers(settings: Settings, directory: Directory, clock: Clock) -> Browsers | None:
    """None where nobody signs in with a browser."""
    issuers = [provider.issuer for provider in settings.access.oidc if provider.client_id]
    if settings.server.public_url is None or not issuers:
        return None
    return Browsers(settings.access.sessions, settings.server.public_url, issuers, directory, clock)


def _counters(settings: Settings, clock: Clock) -> MemoryCounters | SharedCounters:
    url = settings.limits.redis_url
    if url is None:
        return MemoryCounters(clock, settings.limits.gateways)
    # A request that lived longer than it may has died without saying so: its place is free again.
    lease_s = settings.engine.request_timeout + 60.0
    return SharedCounters.at(redis_address(url, "limits.redis_url"), settings.limits.gateways, lease_s, clock)

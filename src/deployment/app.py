"""The composition root: builds everything from the settings, and opens and closes it in order."""

import gc
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog
import uvicorn
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from deployment import __version__
from deployment.access import Access
from deployment.background import going_on
from deployment.clock import Clock, SystemClock
from deployment.database import Database, database_url
from deployment.engines import EnginePool
from deployment.errors import StartupError
from deployment.gateway import (
    BODIES,
    Application,
    BoundedBodies,
    Drainer,
    Envelope,
    Gateway,
    document,
    health_routes,
    native_routes,
    node_routes,
    ollama_routes,
    openai_routes,
)
from deployment.gateway.cache import Answers, MemoryStore, RedisStore, SemanticIndex, Store
from deployment.gateway.listener import TrustedProxies, fixed_headers, listen, server_config
from deployment.gateway.pages import add_pages
from deployment.privacy import Privacy
from deployment.releases import BLOBS, BringUp, CatalogueRoom, Traffic, TrafficRoom
from deployment.releases.rollout import FromCatalogue, Rollouts
from deployment.secret_store import SecretStore
from deployment.settings import Profile, Settings, environment, redis_address
from deployment.telemetry import Metrics, configure_logging

_log = structlog.get_logger("app")


@dataclass(frozen=True, slots=True)
class Services:
    """What runs, for those who need a part of it."""

    settings: Settings
    gateway: Gateway
    pool: EnginePool
    traffic: Traffic
    metrics: Metrics
    database: Database
    secrets: SecretStore
    access: Access
    bring_up: BringUp
    traffic_room: TrafficRoom
    rollouts: Rollouts
    releases: CatalogueRoom
    privacy: Privacy

    def degraded(self) -> list[str]:
        """What runs on without something that it should have, in words."""
        rooms = (self.access, self.traffic_room, self.rollouts, self.privacy)
        problems = [problem for room in rooms for problem in room.problems]
        if self.secrets.problem is not None:
            problems.append(self.secrets.problem)
        if self.gateway.answers.problem is not None:
            problems.append(self.gateway.answers.problem)
        if self.pool.slots_shared is False:
            problems.append("The pool's Redis is away: each gateway keeps to its own part of the slots.")
        return problems


def build(settings: Settings, clock: Clock | None = None) -> Services:
    """Put the parts together. Does no I/O, but for secrets that lie elsewhere."""
    secrets = SecretStore(settings.secrets, environment())
    settings = secrets.resolved(settings)
    clock = clock or SystemClock()
    metrics = Metrics()
    pool = EnginePool(settings, clock, metrics.registry)
    answers = Answers(pool, *_cache(settings, clock), metrics.cache_lookups)
    database = Database(database_url(settings), follow=lambda: database_url(settings))
    access = Access(settings, database, clock)
    room = TrafficRoom(settings, database, pool, access.authenticator, clock, metrics.registry)
    traffic = room.traffic
    access.doubts.served, access.doubts.gateways = lambda: traffic.table, room.count_gateways
    catalogue = CatalogueRoom(settings, database, pool, traffic, access.authenticator, clock)
    privacy = Privacy(settings.privacy, database, room.feedback_store, clock, metrics.registry)
    room.feedback.was_erased = privacy.service.was_erased
    gateway = Gateway(
        settings, pool, answers, access.authenticator, access.limits, room, privacy.keeper, metrics, clock
    )
    catalogue.leaving = lambda: gateway.drain.refusing
    releases = FromCatalogue(catalogue, pool, clock)
    rollouts = Rollouts(settings, database, room.sync, pool, releases, metrics.registry, clock)
    return Services(
        settings,
        gateway,
        pool,
        traffic,
        metrics,
        database,
        secrets,
        access,
        BringUp(settings, pool, traffic, room.sync, catalogue),
        room,
        rollouts,
        catalogue,
        privacy,
    )


def _cache(settings: Settings, clock: Clock) -> tuple[Store | None, SemanticIndex | None]:
    cache = settings.cache
    if not cache.enabled:
        return None, None
    semantic = SemanticIndex(cache.semantic_threshold, cache.semantic_entries) if cache.semantic else None
    if cache.redis_url:
        return RedisStore.from_url(
            redis_address(cache.redis_url, "cache.redis_url"), cache.ttl_seconds, cache.max_bytes, clock.monotonic
        ), semantic
    return MemoryStore(cache.max_bytes, cache.ttl_seconds, clock.monotonic), semantic


def create_app(settings: Settings) -> Application:
    """The ASGI application. Everything is opened by its lifespan, nothing before."""
    services = build(settings)
    settings = services.settings

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        readable = settings.profile is Profile.DEVELOPMENT and sys.stdout.isatty()
        configure_logging(settings.log, readable=readable)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(services.secrets.running())
            stack.push_async_callback(services.database.close)
            stack.push_async_callback(services.gateway.answers.close)
            await stack.enter_async_context(services.access.running())
            await stack.enter_async_context(services.traffic_room.running())
            await stack.enter_async_context(services.releases.running())
            await stack.enter_async_context(services.privacy.running())
            await stack.enter_async_context(services.bring_up)
            await stack.enter_async_context(services.rollouts.running())
            await stack.enter_async_context(going_on(services.gateway.exchanges.watch, "callers who do not read"))
            stack.enter_context(Drainer(services.gateway, settings.server))
            _spare_the_collector()
            _log.info("started", version=__version__, profile=settings.profile.value)
            yield
        _log.info("stopped")

    app = Application(
        title="Ramsey",
        version=__version__,
        description="Your own model, in production: one gateway that speaks Ramsey's, Ollama's and OpenAI's API.",
        lifespan=lifespan,
        openapi_url=None,  # gateway/pages.py serves it, and the pages
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,  # the redirect's host would be whatever the caller says
        license_info={"name": "Apache-2.0"},
    )
    app.state.services = services
    for router in (
        native_routes(services.gateway),
        ollama_routes(services.gateway),
        openai_routes(services.gateway),
        health_routes(services.gateway, lambda: services.bring_up.problem, services.degraded),
        node_routes(services.pool, services.access.authenticator, services.access.recorder),
        services.access.routes(),
        services.access.sign_in_routes(),
        services.traffic_room.routes(),
        services.rollouts.routes(services.access.authenticator),
        services.releases.routes(),
        services.privacy.routes(services.access.authenticator),
    ):
        app.include_router(router)
    app.openapi = lambda: document(app, BODIES)  # type: ignore[method-assign] # as FastAPI documents it
    app.add_exception_handler(HTTPException, _to_envelope)
    server = settings.server
    app.add_middleware(BoundedBodies, limit=server.max_body_bytes, seconds=server.slow_client_seconds, streamed=BLOBS)
    pages = add_pages(app) if settings.server.documents else {}
    app.surround(lambda inner: _around(inner, services, pages))
    return app


def _around(app: ASGIApp, services: Services, pages: Mapping[str, bytes]) -> ASGIApp:
    """What stands around all that answers, from the wire inwards: the envelope, CORS if open, browsers' sessions."""
    settings = services.settings
    app = services.access.before(app)
    if settings.access.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=list(settings.access.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=[
                "authorization",
                "content-type",
                "x-api-key",
                "x-request-id",
                "x-session-id",
                "x-ramsey-release-pin",
            ],
            expose_headers=["x-request-id", "x-ramsey-release", "x-ramsey-node"],
        )
    return Envelope(
        app,
        metrics=services.metrics,
        refused=services.access.refusals.note,
        proxies=TrustedProxies(settings.server.trusted_proxies),
        headers=fixed_headers(settings.server),
        pages=pages,
    )


def _spare_the_collector() -> None:
    """What was built at the start lives as long as the process: looking through it again and again took a third
    of the CPU under load. New objects are mostly freed by their counts, so that cycles are looked for more rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


async def _to_envelope(request: Request, error: Exception) -> Response:
    raise error  # the envelope renders every error, in the dialect of its path


def serve(app: FastAPI) -> None:
    """Run the application on its settings' address until SIGTERM or Ctrl-C; returns when it has drained.

    Raises ConfigurationError when nobody could be let in.

    Raises StartupError when the address cannot be had, or the certificate not be used.
    """
    settings: Settings = app.state.services.settings
    configure_logging(settings.log, readable=settings.profile is Profile.DEVELOPMENT and sys.stdout.isatty())
    config = server_config(app, settings.server)
    listener = listen(settings.server)
    host, port = listener.getsockname()[:2]
    _log.info("listening", url=f"{'https' if config.is_ssl else 'http'}://{host}:{port}")
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except SystemExit:
        raise getattr(app.state, "startup_error", StartupError("It did not start; its log says why.")) from None

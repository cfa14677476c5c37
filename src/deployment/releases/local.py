"""Releases without a gateway: for who works on this machine, with the database and the nodes themselves."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from deployment.access import AccessStore, LocalCaller, Principal, doubts
from deployment.clock import Clock
from deployment.database import DATABASE_FILE, Database, database_url
from deployment.engines import EnginePool
from deployment.errors import EngineUnavailable
from deployment.releases.catalogue import CatalogueRoom
from deployment.releases.traffic import GatewayStore, Traffic, TrafficStore
from deployment.settings import Settings, shown_url


@dataclass(frozen=True, slots=True)
class LocalReleases:
    """The catalogue, its admin API (to be called, never served), and who acts."""

    room: CatalogueRoom
    app: FastAPI
    operator: Principal


@asynccontextmanager
async def local_releases(settings: Settings, clock: Clock, *, nodes: bool) -> AsyncIterator[LocalReleases]:
    """The releases of the settings' database; with `nodes`, the settings' nodes too.

    Errors are raised, not rendered. Raises DatabaseUnavailable, and EngineUnavailable where nodes are wanted and
    none answers.
    """
    database, traffic, caller = Database(database_url(settings)), Traffic(), LocalCaller()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(database.close)
        await database.upgrade()
        async with database.read() as connection:
            store = TrafficStore(clock)
            traffic.swap(await store.all(connection), await store.version(connection))
        pool = EnginePool(settings, clock, CollectorRegistry())
        if nodes:
            await stack.enter_async_context(pool)
            await pool.check()
            if not any(node.version for node in pool.view()):
                told = ", ".join(shown_url(node.url) for node in pool.view()) or "none is named"
                raise EngineUnavailable(f"No node answers ({told}).", hint="Start one: ramsey up.")
        room = CatalogueRoom(settings, database, pool, traffic, caller, clock)
        await stack.enter_async_context(room.running())
        app = FastAPI()
        app.include_router(room.routes())
        yield LocalReleases(room, app, caller.authenticate({}))


async def local_doubts(settings: Settings, clock: Clock) -> list[str]:
    """What is set of limits and keys and can hardly be meant, in the settings and, where there is one, their database.

    Nothing is made or changed there. Raises DatabaseUnavailable.
    """
    served, changes, gateways = {settings.model.name}, None, 0
    if settings.database.url is not None or (settings.data_dir / DATABASE_FILE).exists():
        database = Database(database_url(settings))
        try:
            if await database.is_current():
                async with database.read() as connection:
                    served |= {split.model for split in await TrafficStore(clock).all(connection)}
                    gateways = len(await GatewayStore(clock).alive(connection))
                changes = await AccessStore(database).changes(-1)
        finally:
            await database.close()
    if changes is None:
        return doubts(served, settings.limits, {}, ())
    stored = {(each.scope, each.subject): each.limits for each in changes.limits}
    keys = [key for key in changes.keys if key.state(clock.now()) == "active"]
    return doubts(served, settings.limits, stored, keys, gateways)

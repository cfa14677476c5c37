"""Keeps the table in memory in step with the database, and tells the others so."""

import asyncio
import contextlib
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime

import structlog

from deployment.background import going_on
from deployment.clock import Clock
from deployment.database import Database
from deployment.errors import Conflict, DatabaseUnavailable
from deployment.releases.traffic.model import SETTINGS, Split, single
from deployment.releases.traffic.store import GatewayStore, TrafficStore
from deployment.releases.traffic.table import Traffic
from deployment.releases.traffic.table_file import TableFile

POLL_S = 0.25
"""A change must be everywhere within a second."""
_BEAT_S = 1.0
_LIMIT_S = 5.0
"""A database that answers later is away."""

_log = structlog.get_logger("traffic")


class TrafficSync:
    """One for a process. A database that is away leaves the table as it is; `problem` says so."""

    def __init__(
        self,
        database: Database,
        store: TrafficStore,
        gateways: GatewayStore,
        traffic: Traffic,
        clock: Clock,
        file: TableFile,
    ) -> None:
        self._database, self._store, self._gateways = database, store, gateways
        self._traffic, self._clock, self._file = traffic, clock, file
        self._turn = asyncio.Lock()
        self._ready = self._fresh = False
        self._seeds: dict[str, str] = {}
        self._beat_at = 0.0
        self.gateway = f"{socket.gethostname()[:40]}-{secrets.token_hex(4)}"
        """Tells this process from every other one."""
        self.problem: str | None = None
        """Why the table cannot be read now; for /health."""
        self.on_change: Callable[[], None] = lambda: None
        """Called after every swap of the table."""
        self.outcomes_at: Callable[[], datetime | None] = lambda: None
        """Before when every outcome of this process is written down."""

    async def refresh(self) -> None:
        """Take in what changed, and tell the others that it is here. Raises DatabaseUnavailable."""
        async with self._turn:
            try:
                async with asyncio.timeout(_LIMIT_S):
                    await self._refresh()
            except TimeoutError:
                self._fresh = False
                raise DatabaseUnavailable(f"The database did not answer within {_LIMIT_S:g} s.") from None
            except DatabaseUnavailable:
                self._fresh = False
                raise

    async def seed(self, model: str, release: str) -> None:
        """The settings say that `release` answers for `model`: so it is, unless somebody has said otherwise.

        While the database is away it is so in this process alone, and is written down later.
        """
        self._seeds[model] = release
        with contextlib.suppress(DatabaseUnavailable):
            await self.refresh()
        if self._traffic.split(model) is None:
            self._swap([*self._traffic.splits, single(model, release)], self._traffic.version)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Refresh in the background until the end. Without a database, begin with the table of the last time."""
        await self._try(self.refresh)
        if self.problem is not None and (known := await asyncio.to_thread(self._file.read)):
            _log.warning("the table of the last time is used", models=[split.model for split in known])
            self._swap(known, 0)
        try:
            async with going_on(self._loop, "traffic"):
                yield
        finally:
            with contextlib.suppress(DatabaseUnavailable, TimeoutError):
                async with asyncio.timeout(_LIMIT_S), self._database.write() as connection:
                    await self._gateways.leave(connection, self.gateway)

    async def _loop(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            await self._try(self.refresh)

    async def _refresh(self) -> None:
        if not self._ready:
            await self._database.upgrade()
            self._ready = True
        async with self._database.read() as connection:
            version = await self._store.version(connection)
            changed = not self._fresh or version != self._traffic.version
            splits = await self._store.all(connection) if changed else []
        if changed:
            there = {split.model for split in splits}
            own = [single(model, release) for model, release in self._seeds.items() if model not in there]
            self._swap([*splits, *(each for each in own if self._traffic.split(each.model) is not None)], version)
            await asyncio.to_thread(self._file.write, splits)
            self._fresh = True
        if self._seeds:
            await self._write_seeds()
        elif changed or self._clock.monotonic() >= self._beat_at:
            await self._beat()

    async def _write_seeds(self) -> None:
        for model, release in list(self._seeds.items()):
            try:
                async with self._database.write() as connection:
                    there = await self._store.get(connection, model)
                    if there is None or (there.set_by == SETTINGS and there.releases != (release,)):
                        version = there.version if there is not None else 0
                        await self._store.put(connection, single(model, release), expected_version=version)
            except Conflict:
                continue  # somebody was faster: look again next time
            del self._seeds[model]
        await self._refresh()

    async def _beat(self) -> None:
        async with self._database.write() as connection:
            await self._gateways.beat(connection, self.gateway, self._traffic.version, self.outcomes_at())
        self._beat_at = self._clock.monotonic() + _BEAT_S

    def _swap(self, splits: list[Split], version: int) -> None:
        before = {split.model: split for split in self._traffic.splits}
        self._traffic.swap(splits, version)
        for split in splits:
            if before.get(split.model) != split:
                _log.info(
                    "traffic",
                    model=split.model,
                    weights={share.release: share.weight for share in split.shares},
                    version=split.version,
                    set_by=split.set_by,
                    reason=split.reason,
                )
        self.on_change()

    async def _try(self, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except DatabaseUnavailable as error:
            self._note(f"The traffic table stays as it is. {error.message}")
        except Exception as error:  # a row that cannot be read must not keep out all that comes after it
            self._fresh = False
            if self.problem is None:
                _log.error("the traffic table cannot be used", exc_info=error)
            self._note(f"The traffic table stays as it is: what is stored cannot be used ({type(error).__name__}).")
        else:
            self._note(None)

    def _note(self, problem: str | None) -> None:
        if (problem is None) != (self.problem is None):
            if problem is None:
                _log.info("the traffic table is read again")
            else:
                _log.error("the traffic table cannot be read", problem=problem)
        self.problem = problem

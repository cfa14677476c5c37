"""One process moves the rollouts: who holds the lock leads, and each new leader raises the fence.

The lock ends with its connection (PostgreSQL) or its process (a file beside SQLite). A leader that was thought dead and
wakes up finds the fence raised, and can write nothing.
"""

import asyncio
import contextlib
import fcntl
from pathlib import Path
from typing import IO, Protocol

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from deployment.database import Database
from deployment.errors import DatabaseUnavailable
from deployment.releases.rollout.store import RolloutStore

_LOCK = 0x52414D524F  # "RAMRO"
_CHECK_S = 5.0
_KEEPALIVE = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count")
FILE = "rollouts.lock"

_log = structlog.get_logger("rollouts")


class _Held(Protocol):
    """The lock, while it is held."""

    async def alive(self) -> bool:
        """Whether it is still held."""
        ...

    async def release(self) -> None:
        """Let it go."""
        ...


class Leader:
    """This process's part in the election. `fence` is None while another one leads."""

    def __init__(self, database: Database, store: RolloutStore, data_dir: Path, holder: str) -> None:
        self._database, self._store = database, store
        self._path, self._holder = data_dir / FILE, holder
        self._held: _Held | None = None
        self.fence: int | None = None

    async def lead(self) -> int | None:
        """The fence of this process where it leads, after trying to. Raises DatabaseUnavailable."""
        if self._held is not None and not await self._held.alive():
            _log.warning("another process may lead the rollouts now: the lock's connection broke")
            await self.resign()
        if self._held is None and (held := await self._take()) is not None:
            try:
                async with self._database.write() as connection:
                    self.fence = await self._store.raise_fence(connection, self._holder)
            except BaseException:
                await held.release()
                raise
            self._held = held
            _log.info("leads the rollouts", fence=self.fence)
        return self.fence

    async def resign(self) -> None:
        """Lead no longer."""
        held, self._held, self.fence = self._held, None, None
        if held is not None:
            await held.release()

    async def _take(self) -> _Held | None:
        if self._database.is_sqlite:
            return await asyncio.to_thread(_take_file, self._path)
        return await _take_advisory(self._database)


class _FileLock:
    def __init__(self, file: IO[str]) -> None:
        self._file = file

    async def alive(self) -> bool:
        return True  # it ends with the process

    async def release(self) -> None:
        self._file.close()


def _take_file(path: Path) -> _FileLock | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise DatabaseUnavailable(f"Cannot write {path}: {error.strerror or error}.") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return _FileLock(file)


class _AdvisoryLock:
    """Held by a connection of its own, which does nothing else."""

    def __init__(self, stack: contextlib.AsyncExitStack, connection: AsyncConnection) -> None:
        self._stack, self._connection = stack, connection

    async def alive(self) -> bool:
        try:
            async with asyncio.timeout(_CHECK_S):
                await self._connection.execute(sa.text("SELECT 1"))
        except (sa.exc.SQLAlchemyError, OSError, TimeoutError):
            return False
        return True

    async def release(self) -> None:
        with contextlib.suppress(sa.exc.SQLAlchemyError, OSError, TimeoutError, DatabaseUnavailable):
            async with asyncio.timeout(_CHECK_S):
                await self._connection.invalidate()  # closes it: the lock goes with it
        with contextlib.suppress(sa.exc.SQLAlchemyError, OSError, TimeoutError, DatabaseUnavailable):
            await self._stack.aclose()


async def _take_advisory(database: Database) -> _AdvisoryLock | None:
    stack = contextlib.AsyncExitStack()
    connection = await stack.enter_async_context(database.hold())
    try:
        for name in _KEEPALIVE:  # a leader whose machine is gone must not keep the lock for hours
            await connection.execute(sa.select(sa.func.set_config(name, "3", False)))
        taken = (await connection.execute(sa.select(sa.func.pg_try_advisory_lock(_LOCK)))).scalar_one()
    except BaseException:
        await stack.aclose()
        raise
    if not taken:
        await stack.aclose()
        return None
    return _AdvisoryLock(stack, connection)

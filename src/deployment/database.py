"""The one connection to the state: SQLite in the data directory, or PostgreSQL by a URL.

The request path never comes here: rooms keep what it needs in memory.
"""

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from deployment import migrations
from deployment.errors import ConfigurationError, DatabaseUnavailable, InvalidRequest
from deployment.settings import Settings

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)
"""Every room's tables, so that a test can hold them against the migrations."""

DATABASE_FILE = "ramsey.db"
"""In the data directory, where no other database is set."""
_MIGRATION_LOCK = 0x52414D5345  # "RAMSE"; any number that nobody else locks in this database
_BUSY_MS = 5000
_DATA_EXCEPTION = "22"  # the class of SQLSTATE: a NUL in a text, a text that is too long, a number out of range


class Moment(sa.types.TypeDecorator[datetime]):
    """A time in UTC, aware in Python on every database."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC. A naive time is a mistake."""
        if value is not None and value.tzinfo is None:
            raise ValueError("a stored time needs its zone")
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """SQLite forgets the zone."""
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class Database:
    """A pool of connections. Nothing is opened before the first use."""

    def __init__(self, url: str | sa.URL, follow: Callable[[], str] | None = None) -> None:
        """`follow` says where the database is now: new connections go there, for instance with a new password."""
        self.url = _with_driver(url)
        self._engine = _engine(self.url)
        self._follow = follow

    @property
    def shown_url(self) -> str:
        """Where it is, without a password, which may also stand among the parameters."""
        url = self.url.set(drivername=self.url.get_backend_name())
        query = {name: value for name, value in url.query.items() if name in {"host", "port", "ssl", "sslmode"}}
        return url.set(query=query).render_as_string()

    @property
    def is_sqlite(self) -> bool:
        """Whether the state is a file on this machine."""
        return self.url.get_backend_name() == "sqlite"

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """One consistent view. Raises DatabaseUnavailable."""
        async with self._connection() as connection, connection.begin():
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """One transaction: all of it, or nothing after an error. Raises DatabaseUnavailable."""
        async with self._connection() as connection:
            # SQLite must take its write lock first: a reader that turns writer late is refused at once.
            await connection.execution_options(ramsey_write=True)
            async with connection.begin():
                yield connection

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[AsyncConnection]:
        """A connection to keep, each statement by itself, for locks of the session. Raises DatabaseUnavailable."""
        async with self._connection() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            yield connection

    async def upgrade(self) -> None:
        """Bring the tables to this version of the code; one process does it, the others wait.

        A database that a newer version has moved on stays as it is: migrations only ever add first, so that
        two versions run side by side.
        """
        if self.is_sqlite:
            await asyncio.to_thread(_prepare_file, self.url)
        if await self.is_current():
            return
        async with self.write() as connection:
            if not self.is_sqlite:
                await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            await connection.run_sync(migrations.upgrade)

    async def is_current(self) -> bool:
        """Whether the tables are of this version of the code. Raises DatabaseUnavailable."""
        async with self.read() as connection:
            return await connection.run_sync(_revision) == migrations.HEAD

    async def check(self) -> None:
        """Look whether it answers, and a file is whole. Raises DatabaseUnavailable."""
        async with self.read() as connection:
            if not self.is_sqlite:
                await connection.execute(sa.select(1))
                return
            found = (await connection.execute(sa.text("PRAGMA quick_check(1)"))).scalar()
        if found != "ok":
            raise self._damaged(str(found))

    async def downgrade(self, revision: str) -> None:
        """Take the tables back to a revision; `base` is an empty database. What newer tables hold is lost."""
        async with self.write() as connection:
            await connection.run_sync(migrations.downgrade, revision)

    async def close(self) -> None:
        """Close every connection."""
        await self._engine.dispose()

    async def _move(self) -> None:
        """To the URL of now. What is under way ends on its old connection."""
        if self._follow is None or (url := _with_driver(self._follow())) == self.url:
            return
        before, self.url, self._engine = self._engine, url, _engine(url)
        await before.dispose()

    def _damaged(self, reason: str) -> DatabaseUnavailable:
        return DatabaseUnavailable(
            f"The database file {Path(self.url.database or '').name} is damaged: {reason}.",
            hint="Stop Ramsey, and put a backup in its place, or move it away to begin anew.",
        )

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection]:
        await self._move()
        try:
            async with self._engine.connect() as connection:
                yield connection
        except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError, OSError) as error:
            raise self._away(getattr(error, "orig", None) or error) from error
        except sa.exc.DBAPIError as error:
            if str(getattr(error.orig, "sqlstate", "")).startswith(_DATA_EXCEPTION):
                raise InvalidRequest("The database cannot hold one of these values.") from error
            if self.is_sqlite and type(error) is sa.exc.DatabaseError:  # SQLite's word for what it cannot make sense of
                raise self._damaged(str(error.orig)) from error
            if not error.connection_invalidated:
                raise
            raise DatabaseUnavailable("The connection to the database broke.") from error
        except sa.exc.StatementError as error:
            if isinstance(error.orig, OverflowError):
                raise InvalidRequest("A number or time is outside of what the database holds.") from error
            raise

    def _away(self, reason: BaseException) -> DatabaseUnavailable:
        """Whoever asks for /health reads the message, and need not learn where the database is; logs show the note."""
        kind = self.url.get_backend_name()
        error = DatabaseUnavailable(f"The database ({kind}) does not answer: {type(reason).__name__}.")
        error.add_note(f"{self.shown_url}: {reason}")
        return error


def database_url(settings: Settings) -> str:
    """Where the state is: `database.url`, else a file in the data directory."""
    if settings.database.url is not None:
        return settings.database.url.get_secret_value()
    return f"sqlite:///{settings.data_dir.absolute() / DATABASE_FILE}"


def _with_driver(url: str | sa.URL) -> sa.URL:
    try:
        parsed = make_url(url)
    except (sa.exc.ArgumentError, ValueError):  # ValueError: of a port that is no number
        raise ConfigurationError("database.url is not a URL.", hint=_URL_HINT) from None
    drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
    backend = parsed.drivername.partition("+")[0]
    if backend not in drivers:
        raise ConfigurationError(f"database.url names {backend}, which is not supported.", hint=_URL_HINT)
    return parsed.set(drivername=drivers[backend])


_URL_HINT = "Give sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE."


def _engine(url: sa.URL) -> AsyncEngine:
    if url.get_backend_name() != "sqlite":
        try:
            connect = {"timeout": 5}
            return create_async_engine(
                url, pool_pre_ping=True, pool_timeout=5, connect_args=connect, hide_parameters=True
            )
        except ModuleNotFoundError:
            raise ConfigurationError(
                "PostgreSQL needs its driver.", hint="pip install 'ramsey[postgres]' adds it."
            ) from None
    engine = create_async_engine(url, hide_parameters=True)  # in logs: they may be somebody's words
    sa.event.listen(engine.sync_engine, "connect", _set_up_sqlite)
    sa.event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where we say, tables' changes included
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", f"busy_timeout={_BUSY_MS}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("ramsey_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _prepare_file(url: sa.URL) -> None:
    """A database file that only its owner can read: it holds the hashes of keys.

    A file that is there is never opened: closing it would take every lock from SQLite's own connections of this process
    (POSIX), and another process that leaves would then delete the write-ahead log from under us.
    """
    if not url.database or url.database == ":memory:":
        return
    path = Path(url.database)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            if not os.access(path, os.R_OK | os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return
        with contextlib.suppress(FileExistsError):  # another process was first
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except OSError as error:
        raise ConfigurationError(f"The database file {path} cannot be written: {error.strerror}.") from None


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()

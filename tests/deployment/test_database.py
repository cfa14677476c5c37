import asyncio
import importlib
import pkgutil
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from tests.support.postgres_server import postgres_server

import deployment
from deployment import migrations
from deployment.database import Database, Moment, database_url, metadata
from deployment.errors import ConfigurationError, DatabaseUnavailable, InvalidRequest
from deployment.settings import load

for _module in pkgutil.walk_packages(deployment.__path__, "deployment."):
    if _module.name.endswith("store"):
        importlib.import_module(_module.name)  # its tables enter the metadata


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    url = f"sqlite:///{tmp_path}/state/ramsey.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres")
    database = Database(url)
    await database.upgrade()
    yield database
    await database.downgrade("base")
    await database.close()


async def tables(database: Database) -> set[str]:
    async with database.read() as connection:
        return set(await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names()))


async def test_the_migrations_make_the_tables_that_the_code_speaks_of(database: Database) -> None:
    async with database.read() as connection:
        differences = await connection.run_sync(
            lambda sync: compare_metadata(MigrationContext.configure(sync), metadata)
        )
    assert differences == []


async def test_back_to_nothing_and_forward_again(database: Database) -> None:
    before = await tables(database)
    await database.downgrade("base")
    assert await tables(database) == {"alembic_version"}
    await database.upgrade()
    assert await tables(database) == before


async def test_the_head_is_named_right() -> None:
    assert ScriptDirectory(str(Path(migrations.__file__).parent)).get_current_head() == migrations.HEAD


Schema = dict[str, dict[str, Any]]


async def schema(database: Database) -> Schema:
    """Every table's columns, as the database has them."""

    def read(connection: sa.Connection) -> Schema:
        look = sa.inspect(connection)
        return {
            table: {column["name"]: column for column in look.get_columns(table)}
            for table in look.get_table_names()
            if table != "alembic_version"
        }

    async with database.read() as connection:
        return await connection.run_sync(read)


def in_the_way_of_the_version_before(before: Schema, after: Schema) -> list[str]:
    """What a gateway that knows `before` would stumble over in `after`."""
    found = []
    for table, columns in before.items():
        if table not in after:
            found.append(f"{table} is gone")
            continue
        for name, column in columns.items():
            now = after[table].get(name)
            if now is None:
                found.append(f"{table}.{name} is gone")
            elif str(now["type"]) != str(column["type"]):
                found.append(f"{table}.{name} is another type")
            elif column["nullable"] and not now["nullable"]:
                found.append(f"{table}.{name} may no longer be empty")
        for name, column in after[table].items():
            if name not in columns and not column["nullable"] and column["default"] is None:
                found.append(f"{table}.{name} is new and must be filled")
    return found


async def test_each_revision_leaves_the_version_before_it_working(database: Database) -> None:
    """Expand, then contract: a revision that takes away says in `contracts` since when nothing uses it."""
    after = await schema(database)
    scripts = ScriptDirectory(str(Path(migrations.__file__).parent))
    for script in scripts.walk_revisions():
        await database.downgrade(str(script.down_revision or "base"))
        before = await schema(database)
        if not hasattr(script.module, "contracts"):
            assert in_the_way_of_the_version_before(before, after) == [], f"revision {script.revision}"
        after = before
    await database.upgrade()


def test_what_stands_in_the_way_of_the_version_before_is_seen() -> None:
    number, text = {"type": "INTEGER", "nullable": True, "default": None}, {"type": "TEXT"}
    before = {"a": {"x": number, "y": number, "z": number}, "b": {}}
    after = {"a": {"x": number | text, "y": number | {"nullable": False}, "n": number | {"nullable": False}}}
    assert in_the_way_of_the_version_before(before, after) == [
        "a.x is another type",
        "a.y may no longer be empty",
        "a.z is gone",
        "a.n is new and must be filled",
        "b is gone",
    ]
    more = {"a": before["a"] | {"n": number, "m": number | {"nullable": False, "default": "0"}}, "b": {}, "c": {}}
    assert in_the_way_of_the_version_before(before, more) == []


async def test_several_processes_may_start_at_once(database: Database) -> None:
    await database.downgrade("base")
    others = [Database(database.url) for _ in range(4)]
    await asyncio.gather(*(other.upgrade() for other in others))
    async with database.read() as connection:
        assert (await connection.execute(sa.text("SELECT count(*) FROM access_version"))).scalar() == 1
    for other in others:
        await other.close()


async def test_tables_of_a_newer_version_are_left_alone(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    await database.upgrade()
    async with database.write() as connection:
        assert (await connection.execute(sa.text("SELECT version_num FROM alembic_version"))).scalar() == "9999"
        await connection.execute(sa.text(f"UPDATE alembic_version SET version_num = '{migrations.HEAD}'"))


async def test_a_transaction_is_all_or_nothing(database: Database) -> None:
    async def half() -> None:
        async with database.write() as connection:
            await connection.execute(sa.text("UPDATE access_version SET version = 41"))
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        await half()
    async with database.read() as connection:
        assert (await connection.execute(sa.text("SELECT version FROM access_version"))).scalar() == 0


async def test_no_write_is_lost_when_many_write_at_once(database: Database) -> None:
    async def increment() -> None:
        async with database.write() as connection:
            await connection.execute(sa.text("UPDATE access_version SET version = version + 1"))

    await asyncio.gather(*(increment() for _ in range(40)))
    async with database.read() as connection:
        assert (await connection.execute(sa.text("SELECT version FROM access_version"))).scalar() == 40


async def test_times_come_back_as_they_went_in(database: Database) -> None:
    moment = datetime(2026, 7, 1, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
    table = sa.table("tenants", sa.column("id"), sa.column("name"), sa.column("created_at", Moment))
    async with database.write() as connection:
        await connection.execute(table.insert().values(id="t", name="T", created_at=moment))
        row = (await connection.execute(table.select().where(table.c.id == "t"))).one()
    assert row.created_at == moment
    assert row.created_at.tzinfo is UTC


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="zone"):
        Moment().process_bind_param(datetime(2026, 1, 1), None)  # type: ignore[arg-type]  # noqa: DTZ001


async def test_only_its_owner_can_read_the_file(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/state/ramsey.db")
    await database.upgrade()
    await database.close()
    for path, mode in ((tmp_path / "state", 0o700), (tmp_path / "state" / "ramsey.db", 0o600)):
        assert stat.S_IMODE(path.stat().st_mode) == mode


async def test_another_process_cannot_take_the_log_away_from_under_us(tmp_path: Path) -> None:
    """A file that we open and close beside SQLite loses its locks; the next process to leave then deletes the log."""
    file = tmp_path / "ramsey.db"
    database = Database(f"sqlite:///{file}")
    await database.upgrade()
    async with database.write() as connection:
        await connection.execute(sa.text("CREATE TABLE probe (number INTEGER)"))
    await database.upgrade()  # as each room of a gateway does
    log = Path(f"{file}-wal").stat().st_ino
    visitor = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('INSERT INTO probe VALUES (1)'); c.commit()"
    )
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", visitor, str(file)], check=True)
    assert Path(f"{file}-wal").stat().st_ino == log
    async with database.write() as connection:
        assert (await connection.execute(sa.text("SELECT count(*) FROM probe"))).scalar() == 1
    await database.close()


@pytest.mark.parametrize("begin", [0, 2000])
async def test_a_damaged_file_is_told(tmp_path: Path, begin: int) -> None:
    file = tmp_path / "ramsey.db"
    database = Database(f"sqlite:///{file}")
    await database.upgrade()
    await database.close()
    file.write_bytes(file.read_bytes()[:begin] + b"\xff" * 60_000)
    database = Database(f"sqlite:///{file}")
    with pytest.raises(DatabaseUnavailable, match=r"ramsey\.db is damaged: ") as told:
        await database.upgrade()
    assert "backup" in (told.value.hint or "")
    await database.close()


async def test_an_unreachable_database_says_so_without_its_password() -> None:
    database = Database("postgresql://ramsey:hunter2@127.0.0.1:1/ramsey")
    with pytest.raises(DatabaseUnavailable) as caught:
        await database.upgrade()
    assert caught.value.status == 503
    (note,) = caught.value.__notes__
    assert "127.0.0.1" in note
    assert "127.0.0.1" not in str(caught.value), "/health says it to anybody"
    assert "hunter2" not in note + str(caught.value)
    await database.close()


@pytest.mark.parametrize("url", ["mysql://host/db", "nonsense", ""])
def test_a_url_that_is_not_supported_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Database(url)
    assert "postgresql://" in (caught.value.hint or "")


async def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    database = Database(f"sqlite:///{tmp_path}/file/ramsey.db")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        await database.upgrade()


def test_the_default_is_a_file_in_the_data_directory(tmp_path: Path) -> None:
    settings = load(data_dir=tmp_path)
    assert database_url(settings) == f"sqlite:///{tmp_path}/ramsey.db"
    named = load(data_dir=tmp_path, database={"url": "postgresql://h/d"})
    assert database_url(named) == "postgresql://h/d"


async def test_a_value_that_it_cannot_hold_is_the_callers_mistake(database: Database) -> None:
    """PostgreSQL keeps no NUL in a text, and neither database a time before the year 1."""
    early = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    moment = sa.select(sa.literal(early, Moment))
    with pytest.raises(InvalidRequest):
        async with database.read() as connection:
            await connection.execute(moment)
    if not database.is_sqlite:
        statement = sa.text("SELECT CAST(:value AS VARCHAR)")
        with pytest.raises(InvalidRequest) as told:
            async with database.read() as connection:
                await connection.execute(statement, {"value": "secret\0"})
        assert "secret" not in str(told.value.__cause__), "what was said is in no log"

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.support.held_clock import HeldClock

from deployment.access import LOCAL_OPERATOR, Access, CreatedKey, KeyWish, Principal, generate_key
from deployment.clock import SystemClock
from deployment.database import Database
from deployment.errors import DatabaseUnavailable, Unauthenticated
from deployment.settings import load

FIXED = generate_key()
SETTINGS = load(access={"offline_seconds": 100.0, "keys": [{"name": "fixed", "sha256": FIXED.sha256}]})


@asynccontextmanager
async def room(url: str) -> AsyncIterator[Access]:
    database = Database(url)
    access = Access(SETTINGS, database, SystemClock())
    async with access.running():
        yield access
    await database.close()


def call(access: Access, key: str) -> Principal:
    headers = [(b"host", b"llm.example"), (b"authorization", f"Bearer {key}".encode())]
    return access.authenticator.authenticate({"type": "http", "client": ("203.0.113.9", 1), "headers": headers})


async def make(access: Access) -> CreatedKey:
    return await access.service.create_key(LOCAL_OPERATOR, KeyWish("shop"))


async def test_a_revocation_reaches_the_other_processes_within_a_second(database_url: str) -> None:
    async with room(database_url) as here, room(database_url) as there:
        created = await make(here)
        deadline = time.monotonic() + 20

        async def until(known: bool) -> None:
            while time.monotonic() < deadline:
                try:
                    call(there, created.new.key)
                    seen = True
                except Unauthenticated:
                    seen = False
                if seen == known:
                    return
                await asyncio.sleep(0.02)
            raise AssertionError("the other process never heard of it")

        await until(True)
        await here.service.revoke_key(LOCAL_OPERATOR, created.new.public_id)
        await until(False)


async def test_no_change_is_missed_when_many_are_made_at_once(database_url: str) -> None:
    async with room(database_url) as reader, room(database_url) as one, room(database_url) as two:
        makers = [make(here) for here in (one, two) * 12]
        made = await asyncio.gather(*makers, *(reader._sync.refresh() for _ in range(10)))
        await reader._sync.refresh()
        for created in made[:24]:
            assert isinstance(created, CreatedKey)
            assert call(reader, created.new.key).name == "shop"


class Road:
    """The way to a PostgreSQL: a link to its socket, which can be taken away."""

    def __init__(self, url: str, folder: Path) -> None:
        self._socket = Path(url.partition("host=")[2]) / ".s.PGSQL.5432"
        self._link = folder / ".s.PGSQL.5432"
        self.url = f"postgresql://ramsey@/postgres?host={folder}"
        self.open()

    def open(self) -> None:
        self._link.symlink_to(self._socket)

    async def close(self, database: Database) -> None:
        self._link.unlink()
        await database.close()  # its connections would go on working otherwise


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_known_keys_go_on_for_a_stated_time_while_the_database_is_away(database_url: str, tmp_path: Path) -> None:
    road, clock = Road(database_url, tmp_path), HeldClock()
    database = Database(road.url)
    access = Access(SETTINGS, database, clock)
    async with access.running():
        created = await make(access)
        await road.close(database)
        clock.advance(99)
        assert call(access, created.new.key).name == "shop"
        with pytest.raises(DatabaseUnavailable) as unknown:
            call(access, generate_key().key)
        assert unknown.value.status == 503
        with pytest.raises(DatabaseUnavailable):
            await make(access)
        clock.advance(2)
        with pytest.raises(DatabaseUnavailable):
            call(access, created.new.key)
        assert call(access, FIXED.key).name == "fixed"
        road.open()
        await access._sync.refresh()
        assert call(access, created.new.key).name == "shop"
    await database.close()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_process_starts_without_its_database_and_finds_it_later(database_url: str, tmp_path: Path) -> None:
    road, database = Road(database_url, tmp_path), Database(f"postgresql://ramsey@/postgres?host={tmp_path}")
    async with room(database_url) as before:
        created = await make(before)
    await road.close(database)
    access = Access(SETTINGS, database, SystemClock())
    async with access.running():
        assert "does not answer" in access.problems[0]
        assert call(access, FIXED.key).name == "fixed"
        with pytest.raises(DatabaseUnavailable):
            call(access, created.new.key)
        with pytest.raises(Unauthenticated):
            call(access, "not-one-of-ours")
        road.open()
        await access._sync.refresh()
        assert call(access, created.new.key).name == "shop"
    await database.close()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_acts_outside_the_database_are_recorded_once_it_is_back(database_url: str, tmp_path: Path) -> None:
    road = Road(database_url, tmp_path)
    database = Database(road.url)
    access = Access(SETTINGS, database, SystemClock())
    async with access.running():
        await road.close(database)
        for name in ("a", "b"):
            await access.recorder.record(LOCAL_OPERATOR, "node.drain", name, after={"draining": True})
        with pytest.raises(DatabaseUnavailable):
            await access.recorder.flush()
        road.open()
        await access.recorder.record(LOCAL_OPERATOR, "node.remove", "a")
        entries = await access.service.audit(LOCAL_OPERATOR)
    assert [(entry.action, entry.subject) for entry in reversed(entries)] == [
        ("node.drain", "a"),
        ("node.drain", "b"),
        ("node.remove", "a"),
    ]
    await database.close()


async def test_a_row_that_cannot_be_read_is_told_and_does_not_end_the_following(database_url: str) -> None:
    async with room(database_url) as here:
        created = await make(here)
        database, raised = Database(database_url), sa.text("UPDATE access_version SET version = version + 1")
        broken = "INSERT INTO roles (name, permissions, created_at) VALUES ('x', 'null', CURRENT_TIMESTAMP)"
        end = time.monotonic() + 30
        async with database.write() as connection:
            await connection.execute(sa.text(broken))
            await connection.execute(raised)
        while not any("cannot be used: TypeError" in problem for problem in here.problems):
            assert time.monotonic() < end
            await asyncio.sleep(0.02)
        revoked = "UPDATE api_keys SET revoked_at = CURRENT_TIMESTAMP, version = (SELECT version FROM access_version)"
        async with database.write() as connection:
            await connection.execute(sa.text("DELETE FROM roles WHERE name = 'x'"))
            await connection.execute(raised)
            await connection.execute(sa.text(revoked))
        while here.problems:
            assert time.monotonic() < end
            await asyncio.sleep(0.02)
        with pytest.raises(Unauthenticated):
            call(here, created.new.key)
        await database.close()


async def test_the_last_use_is_written_when_a_process_ends(database_url: str) -> None:
    async with room(database_url) as first:
        created = await make(first)
        call(first, created.new.key)
    async with room(database_url) as second:
        assert (await second.service.key(LOCAL_OPERATOR, created.new.public_id)).last_used_at is not None


async def test_more_keys_than_a_page_are_all_known(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployment.access.store._PAGE", 3)
    async with room(database_url) as first:
        made = [await make(first) for _ in range(7)]
    async with room(database_url) as second:
        for created in made:
            assert call(second, created.new.key).name == "shop"

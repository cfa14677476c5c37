"""One leads, and what an older leader still tries to write is refused."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.support.postgres_server import postgres_server

from deployment.database import Database
from deployment.errors import Conflict
from deployment.releases.rollout.leader import Leader
from deployment.releases.rollout.model import Phase, Rollout
from deployment.releases.rollout.plan import parse
from deployment.releases.rollout.store import RolloutStore

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
STORE = RolloutStore()


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    sqlite = f"sqlite:///{tmp_path}/state/ramsey.db"
    database = Database(sqlite if request.param == "sqlite" else request.getfixturevalue("postgres"))
    await database.upgrade()
    yield database
    await database.downgrade("base")
    await database.close()


def rollout(name: str) -> Rollout:
    return Rollout(name, "m", "m:v1", "m:v2", parse({}), Phase.PREPARING, 0, NOW, NOW, "Ada", "Ada deploys it.")


async def test_one_leads_until_it_resigns(database: Database, tmp_path: Path) -> None:
    first, second = (Leader(database, STORE, tmp_path, name) for name in ("first", "second"))
    fence = await first.lead()
    assert fence is not None
    assert await second.lead() is None
    assert await first.lead() == fence, "it goes on with the same"
    await first.resign()
    newer = await second.lead()
    assert newer is not None
    assert newer > fence
    async with database.write() as connection:
        with pytest.raises(Conflict, match="second leads"):
            await STORE.check_fence(connection, fence)
        await STORE.check_fence(connection, newer)
    await second.resign()


async def test_a_leader_whose_connection_broke_takes_the_lock_anew(database: Database, tmp_path: Path) -> None:
    if database.is_sqlite:
        return  # its lock is a file's, and ends with the process alone
    leader = Leader(database, STORE, tmp_path, "first")
    fence = await leader.lead()
    other = Database(database.url)
    async with other.read() as connection:
        await connection.execute(
            sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        )
    await other.close()
    newer = await leader.lead()
    assert fence is not None
    assert newer is not None
    assert newer > fence
    await leader.resign()


async def test_the_database_itself_refuses_a_second_rollout_and_a_late_writer(database: Database) -> None:
    async with database.write() as connection:
        made = await STORE.add(connection, rollout("a"))
    async with database.write() as connection:
        with pytest.raises(Conflict, match="a to m:v2"):
            await STORE.add(connection, rollout("b"))
    async with database.write() as connection:
        kept = await STORE.get(connection, "a", lock=True)
        assert kept == made
        await STORE.save(connection, made)
        with pytest.raises(Conflict, match="changed meanwhile"):
            await STORE.save(connection, made)


async def test_a_plan_of_a_newer_version_can_still_be_read(database: Database) -> None:
    async with database.write() as connection:
        await STORE.add(connection, rollout("a"))
        state = (await connection.execute(sa.text("SELECT state FROM rollouts"))).scalar_one()
        newer = state.replace('"strategy":', '"moon_phase":"full","strategy":').replace('"floor":', '"roof":1,"floor":')
        await connection.execute(sa.text("UPDATE rollouts SET state = :state"), {"state": newer})
        kept = await STORE.get(connection, "a")
    assert kept is not None
    assert kept.plan == parse({})

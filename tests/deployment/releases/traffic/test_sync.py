"""Gateways and their database: who sees what, and when."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.deployment.access.test_sync import Road

from deployment.clock import SystemClock
from deployment.database import Database
from deployment.releases.traffic import GatewayStore, Share, Split, Traffic, TrafficStore, TrafficSync, single
from deployment.releases.traffic.table_file import TableFile

OLD, NEW = "ramsey-model:v1.0", "ramsey-model:v1.1"


@dataclass
class Process:
    database: Database
    traffic: Traffic
    sync: TrafficSync
    store: TrafficStore
    gateways: GatewayStore

    async def put(self, split: Split) -> Split:
        async with self.database.write() as connection:
            return await self.store.put(connection, split, expected_version=None)

    async def alive(self) -> dict[str, int]:
        async with self.database.read() as connection:
            return {row.id: row.traffic_version for row in await self.gateways.alive(connection)}


def made(url: str, folder: Path) -> Process:
    clock, database, traffic = SystemClock(), Database(url), Traffic()
    store, gateways = TrafficStore(clock), GatewayStore(clock)
    sync = TrafficSync(database, store, gateways, traffic, clock, TableFile(folder))
    return Process(database, traffic, sync, store, gateways)


@asynccontextmanager
async def process(url: str, folder: Path) -> AsyncIterator[Process]:
    here = made(url, folder)
    async with here.sync.running():
        yield here
    await here.database.close()


async def until(true: Callable[[], bool]) -> float:
    """Seconds until it was so."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() < began + 20
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def test_a_change_comes_to_every_process(database_url: str, tmp_path: Path) -> None:
    async with process(database_url, tmp_path / "a") as one, process(database_url, tmp_path / "b") as two:
        swaps = []
        two.sync.on_change = lambda: swaps.append(two.traffic.version)
        split = await one.put(Split("ramsey-model", (Share(OLD, 0.9), Share(NEW, 0.1)), set_by="k1"))
        await one.sync.refresh()
        assert one.traffic.split("ramsey-model") == split
        await until(lambda: two.traffic.split("ramsey-model") == split)
        assert swaps == [split.version]
        deadline = time.monotonic() + 20
        while await one.alive() != {one.sync.gateway: split.version, two.sync.gateway: split.version}:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
    async with process(database_url, tmp_path / "c") as three:
        assert await three.alive() == {three.sync.gateway: split.version}  # who ended is gone at once


async def test_the_settings_release_is_served_until_somebody_says_otherwise(database_url: str, tmp_path: Path) -> None:
    async with process(database_url, tmp_path / "a") as one, process(database_url, tmp_path / "b") as two:
        await asyncio.gather(one.sync.seed("ramsey-model", OLD), two.sync.seed("ramsey-model", OLD))
        assert one.traffic.table == two.traffic.table == {"ramsey-model": OLD}
        before = one.traffic.version
        await one.sync.seed("ramsey-model", OLD)
        assert one.traffic.version == before  # nothing new was written
        await one.sync.seed("ramsey-model", NEW)  # another Modelfile, after a restart
        await until(lambda: two.traffic.table == {"ramsey-model": NEW})
        await one.put(single("ramsey-model", OLD, set_by="k1"))
        await two.sync.seed("ramsey-model", NEW)
        assert two.traffic.table == {"ramsey-model": OLD}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_the_table_stays_while_the_database_is_away(database_url: str, tmp_path: Path) -> None:
    road = Road(database_url, tmp_path)
    async with process(road.url, tmp_path / "a") as here:
        await here.sync.seed("ramsey-model", OLD)
        await road.close(here.database)
        await until(lambda: here.sync.problem is not None)
        assert "stays as it is" in str(here.sync.problem)
        assert here.traffic.table == {"ramsey-model": OLD}
        async with process(road.url, tmp_path / "a") as again:  # a restart without the database
            assert again.traffic.table == {"ramsey-model": OLD}
        async with process(road.url, tmp_path / "empty") as new:
            assert new.traffic.table == {}
            await new.sync.seed("ramsey-model", NEW)
            assert new.traffic.table == {"ramsey-model": NEW}
            road.open()
            await until(lambda: here.sync.problem is None)
            await until(lambda: new.traffic.split("ramsey-model") is not None and new.sync.problem is None)
            # What the settings of the newest start say is written down; nobody else had said anything.
            await until(lambda: new.traffic.table == here.traffic.table == {"ramsey-model": NEW})
        await here.put(single("ramsey-model", OLD, set_by="k1"))
        await until(lambda: here.traffic.table == {"ramsey-model": OLD})


async def test_a_table_that_was_restored_with_the_same_number_is_read_after_an_outage(
    database_url: str, tmp_path: Path
) -> None:
    async with process(database_url, tmp_path) as here:
        split = await here.put(single("ramsey-model", OLD, set_by="k1"))
        await until(lambda: here.traffic.table == {"ramsey-model": OLD})
        async with here.database.write() as connection:
            await here.store.put(connection, single("ramsey-model", NEW, set_by="k1"), expected_version=None)
            await connection.execute(sa.text(f"UPDATE traffic_version SET version = {split.version}"))
        here.sync._fresh = False
        await until(lambda: here.traffic.table == {"ramsey-model": NEW})


def test_a_file_that_cannot_be_read_is_no_table(tmp_path: Path) -> None:
    file = TableFile(tmp_path)
    assert file.read() == []
    file.write([single("ramsey-model", OLD)])
    assert file.read() == [single("ramsey-model", OLD)]
    for content in (b"{", b"[]", b'{"models": {"m": {"shares": 5}}}', b'{"models": []}'):
        (tmp_path / "traffic.json").write_bytes(content)
        assert file.read() == []


async def test_a_row_that_cannot_be_read_keeps_the_table_and_is_told_and_what_comes_later_is_followed(
    database_url: str, tmp_path: Path
) -> None:
    async with process(database_url, tmp_path / "a") as here:
        await here.put(single("ramsey-model", OLD))
        await until(lambda: here.traffic.table == {"ramsey-model": OLD})

        async def store(split: str) -> None:
            async with here.database.write() as connection:
                await connection.execute(sa.text("UPDATE traffic SET split = :split"), {"split": split})
                await connection.execute(sa.text("UPDATE traffic_version SET version = version + 1"))

        async with here.database.read() as connection:
            good = str((await connection.execute(sa.text("SELECT split FROM traffic"))).scalar())
        await store('{"shares": 7}')
        await until(lambda: here.sync.problem is not None and "cannot be used" in here.sync.problem)
        assert here.traffic.table == {"ramsey-model": OLD}
        await store(good.replace(OLD, NEW))
        await until(lambda: here.sync.problem is None)
        assert here.traffic.table == {"ramsey-model": NEW}

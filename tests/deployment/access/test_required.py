"""A gateway outside development starts only where somebody can be let in."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.held_clock import HeldClock

from deployment.access import LOCAL_OPERATOR, Access, KeyWish, generate_key
from deployment.clock import Clock, SystemClock
from deployment.database import Database
from deployment.errors import ConfigurationError
from deployment.settings import load

OIDC = {"issuer": "http://localhost:1/", "audience": ["ramsey"]}


async def start(url: str, profile: str = "production", clock: Clock | None = None, **access: Any) -> None:
    database = Database(url)
    try:
        async with Access(load(profile=profile, access=access), database, clock or SystemClock()).running():
            pass
    finally:
        await database.close()


async def refused(url: str, clock: Clock | None = None) -> None:
    with pytest.raises(ConfigurationError, match="needs authentication") as problem:
        await start(url, clock=clock)
    assert "ramsey keys create" in (problem.value.hint or "")


async def test_a_stored_key_is_enough_while_it_can_be_used(database_url: str) -> None:
    await refused(database_url)
    clock, database = HeldClock(), Database(database_url)
    service = Access(load(), database, clock).service
    made = await service.create_key(LOCAL_OPERATOR, KeyWish("shop"))
    await start(database_url)
    await service.revoke_key(LOCAL_OPERATOR, made.record.public_id)
    await refused(database_url)
    await service.create_key(LOCAL_OPERATOR, KeyWish("short", expires_at=clock.now() + timedelta(hours=1)))
    await database.close()
    await start(database_url, clock=clock)
    clock.advance(3600)
    await refused(database_url, clock)


async def test_the_settings_are_enough_without_a_stored_key(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ramsey.db"
    await start(url, "development")
    await start(url, keys=[{"name": "a", "sha256": generate_key().sha256}])
    await start(url, oidc=[OIDC])


async def test_a_database_that_is_away_may_hold_keys() -> None:
    await start("postgresql://nobody@127.0.0.1:1/none")

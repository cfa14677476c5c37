"""Keeping, showing and erasing conversations, on both databases."""

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from tests.support.held_clock import HeldClock
from tests.support.postgres_server import postgres_server

from deployment.access import LOCAL_OPERATOR, Permission, Principal
from deployment.clock import SystemClock
from deployment.database import Database
from deployment.errors import ConfigurationError, Conflict, Forbidden, NotFound
from deployment.privacy import Privacy
from deployment.privacy.model import Sealed, Wish
from deployment.privacy.sealing import Sealer, Unsealable
from deployment.privacy.store import PrivacyStore
from deployment.releases import FeedbackStore, RecentAnswers
from deployment.releases.traffic import GatewayStore, Vote
from deployment.releases.traffic.feedback import FeedbackService
from deployment.settings import PrivacyKey, PrivacySettings

SECRET = "my number is +49 30 1234567"
ACME = replace(LOCAL_OPERATOR, id="acme-admin", tenant="acme", permissions=frozenset(Permission) - {"tenants:all"})


def key(name: str) -> PrivacyKey:
    return PrivacyKey(id=name, secret=SecretStr(base64.b64encode(os.urandom(32)).decode()))


@pytest.fixture(scope="module")
def postgres() -> Any:
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    url = f"sqlite:///{tmp_path}/ramsey.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres")
    made = Database(url)
    await made.upgrade()
    await make_acme(made)
    yield made
    await made.downgrade("base")
    await made.close()


async def make_acme(database: Database) -> None:
    async with database.write() as connection:
        made = "INSERT INTO tenants (id, name, created_at) VALUES ('acme', 'Acme', CURRENT_TIMESTAMP)"
        await connection.execute(sa.text(made))


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


def privacy(database: Database, clock: HeldClock, *keys: PrivacyKey) -> Privacy:
    return Privacy(PrivacySettings(keys=keys), database, FeedbackStore(), clock, CollectorRegistry())


def note(room: Privacy, subject: str = "zora", tenant: str = "acme", text: str = SECRET, request: str = "r1") -> None:
    room.keeper.note(
        tenant=tenant,
        subject=subject,
        request_id=request,
        model="m",
        release="m:v1",
        content={"prompt": text, "answer": "R(3,3) = 6"},
    )


async def stored(database: Database) -> list[dict[str, Any]]:
    async with database.read() as connection:
        return [dict(row) for row in (await connection.execute(sa.text("SELECT * FROM conversations"))).mappings()]


async def acts(database: Database) -> list[str]:
    async with database.read() as connection:
        return list((await connection.execute(sa.text("SELECT action FROM audit_log ORDER BY seq"))).scalars())


async def test_nothing_is_kept_for_who_did_not_ask(database: Database, clock: HeldClock) -> None:
    room = privacy(database, clock, key("k1"))
    await room.keeper.refresh()
    assert not room.keeper.wants("acme")
    note(room)
    await room.keeper.flush()
    assert await stored(database) == []


async def test_what_is_kept_is_sealed_shown_to_its_own_and_erased(database: Database, clock: HeldClock) -> None:
    room = privacy(database, clock, key("k1"))
    await room.service.set(LOCAL_OPERATOR, Wish("acme", keep=True, days=30, redact=False))
    assert room.keeper.wants("acme")
    note(room)
    note(room, subject="bob", request="r2")
    await room.keeper.flush()
    rows = await stored(database)
    assert len(rows) == 2
    assert "1234567" not in str(rows)
    assert "zora" not in str(rows)
    page, more = await room.service.export(ACME, "acme", "zora")
    assert more is None
    assert [one.content["prompt"] for one in page] == [SECRET]
    with pytest.raises(NotFound):
        await room.service.export(replace(ACME, tenant="other"), "acme", "zora")
    erased = await room.service.erase(ACME, "acme", "zora")
    assert (erased.conversations, len(await stored(database))) == (1, 1)
    assert (await room.service.export(ACME, "acme", "zora"))[0] == []
    assert await acts(database) == ["privacy.set", "privacy.export", "privacy.erase", "privacy.export"]
    async with database.read() as connection:
        assert "zora" not in str((await connection.execute(sa.text("SELECT * FROM audit_log"))).all())


async def test_a_tenant_that_is_not_there_is_told_with_the_next_step(database: Database, clock: HeldClock) -> None:
    service = privacy(database, clock, key("k1")).service
    for asked in (
        service.set(LOCAL_OPERATOR, Wish("acne", keep=True, days=30, redact=False)),
        service.export(LOCAL_OPERATOR, "acne", "zora"),
        service.erase(LOCAL_OPERATOR, "acne", "zora"),
    ):
        with pytest.raises(NotFound, match="There is no tenant 'acne'") as caught:
            await asked
        assert "ramsey tenants create acne" in (caught.value.hint or "")
    assert await acts(database) == []
    assert await service.wishes(LOCAL_OPERATOR) == []


async def test_export_goes_on_page_by_page(database: Database, clock: HeldClock) -> None:
    room = privacy(database, clock, key("k1"))
    await room.service.set(LOCAL_OPERATOR, Wish("acme", keep=True, days=30, redact=False))
    for number in range(450):
        note(room, text=str(number))
    seen, after = [], None
    while True:
        page, after = await room.service.export(ACME, "acme", "zora", after)
        seen += [one.content["prompt"] for one in page]
        if after is None:
            break
    assert sorted(map(int, seen)) == list(range(450))


async def test_personal_data_is_replaced_before_it_is_kept(database: Database, clock: HeldClock) -> None:
    room = privacy(database, clock, key("k1"))
    await room.service.set(LOCAL_OPERATOR, Wish("acme", keep=True, days=30, redact=True))
    note(room)
    page, _ = await room.service.export(ACME, "acme", "zora")
    assert page[0].content["prompt"] == "my number is [telephone]"


async def test_conversations_end_with_their_time(database: Database, clock: HeldClock) -> None:
    room = privacy(database, clock, key("k1"))
    await room.service.set(LOCAL_OPERATOR, Wish("acme", keep=True, days=2, redact=False))
    note(room)
    await room.keeper.flush()
    clock.advance(timedelta(days=1).total_seconds())
    await room.keeper.expire()
    assert len(await stored(database)) == 1
    clock.advance(timedelta(days=1).total_seconds())
    await room.keeper.expire()
    assert await stored(database) == []


async def test_a_new_key_seals_and_the_old_one_may_go_after_a_rotation(database: Database, clock: HeldClock) -> None:
    old, new = key("old"), key("new")
    room = privacy(database, clock, old)
    await room.service.set(LOCAL_OPERATOR, Wish("acme", keep=True, days=30, redact=False))
    note(room)
    await room.keeper.flush()
    both = privacy(database, clock, new, old)
    assert len((await both.service.export(ACME, "acme", "zora"))[0]) == 1
    with pytest.raises(Forbidden):
        await both.service.rotate(ACME)
    assert await both.service.rotate(LOCAL_OPERATOR) == 1
    only = privacy(database, clock, new)
    assert [one.content["prompt"] for one in (await only.service.export(ACME, "acme", "zora"))[0]] == [SECRET]


async def test_without_a_key_nobody_can_ask_for_keeping(database: Database, clock: HeldClock) -> None:
    wish = Wish("acme", keep=True, days=30, redact=False)
    with pytest.raises(Conflict, match="no key"):
        await privacy(database, clock).service.set(LOCAL_OPERATOR, wish)
    wrong = PrivacyKey(id="k", secret=SecretStr("short"))
    with pytest.raises(ConfigurationError, match="32 bytes"):
        await privacy(database, clock, wrong).service.set(LOCAL_OPERATOR, wish)


async def test_a_row_that_was_moved_or_changed_does_not_open(database: Database, clock: HeldClock) -> None:
    one = key("k1")
    room = privacy(database, clock, one)
    await room.service.set(LOCAL_OPERATOR, Wish("acme", keep=True, days=30, redact=False))
    note(room)
    await room.keeper.flush()
    sealer = Sealer((one,))
    async with database.read() as connection:
        (row,) = await PrivacyStore().of_subject(connection, "acme", sealer.tags("acme", "zora"), None, 10)
    assert sealer.open(row).subject == "zora"
    changes: list[dict[str, Any]] = [{"tenant": "other"}, {"id": "x"}, {"release": "m:v2"}, {"key_id": "gone"}]
    changes += [{"sealed": bytes([row.sealed[0] ^ 1]) + row.sealed[1:]}, {"expires_at": row.expires_at + timedelta(1)}]
    for change in changes:
        with pytest.raises(Unsealable):
            sealer.open(replace(row, **change))
    assert isinstance(row, Sealed)


async def test_a_database_that_is_away_loses_nothing_until_too_much_waits(clock: HeldClock, tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/ramsey.db")
    await database.upgrade()
    await make_acme(database)
    room = privacy(database, clock, key("k1"))
    await room.service.set(LOCAL_OPERATOR, Wish("acme", keep=True, days=30, redact=False))
    here, gone = tmp_path / "ramsey.db", tmp_path / "away.db"
    async with room.keeper.running():
        await database.close()
        for file in tmp_path.glob("ramsey.db*"):
            file.rename(str(file).replace("ramsey.db", "away.db"))
        here.mkdir()
        note(room)
        with pytest.raises(Exception, match="database"):
            await room.keeper.flush()
        here.rmdir()
        for file in tmp_path.glob("away.db*"):
            file.rename(str(file).replace("away.db", "ramsey.db"))
        await room.keeper.flush()
    assert not gone.exists()
    assert len(await stored(database)) == 1
    await database.close()


def test_a_principal_without_permission_cannot(clock: HeldClock) -> None:
    viewer = Principal("v", "v", "acme", frozenset(), frozenset(), None)
    with pytest.raises(Forbidden):
        viewer.require(Permission.PRIVACY_READ)


async def test_what_another_gateway_writes_after_an_erasure_stays_away(database: Database, clock: HeldClock) -> None:
    one = key("k1")
    here, there = privacy(database, clock, one), privacy(database, clock, one)
    await here.service.set(LOCAL_OPERATOR, Wish("acme", keep=True, days=30, redact=False))
    await there.keeper.refresh()
    note(there)  # asked before, and not written yet
    note(there, subject="bob")
    began = there.keeper.moment()
    clock.advance(3600)
    assert (await here.service.erase(ACME, "acme", "zora")).conversations == 0
    clock.advance(3600)  # its database was away for long
    there.keeper.note(
        tenant="acme", subject="zora", request_id="r", model="m", release="m:v1", content={"prompt": "?"}, began=began
    )
    note(there, text="again")  # asked after it, and kept
    await there.keeper.flush()
    page, _ = await here.service.export(ACME, "acme", "zora")
    assert [one.content["prompt"] for one in page] == ["again"]
    assert len((await here.service.export(ACME, "acme", "bob"))[0]) == 1
    assert (await here.service.erase(ACME, "acme", "zora")).conversations == 1
    assert len(await stored(database)) == 1


async def test_who_writes_while_another_erases_leaves_nothing(database: Database) -> None:
    one, real = key("k1"), SystemClock()
    rooms = [Privacy(PrivacySettings(keys=(one,)), database, FeedbackStore(), real, CollectorRegistry()) for _ in "ab"]
    await rooms[0].service.set(LOCAL_OPERATOR, Wish("acme", keep=True, days=30, redact=False))
    await rooms[1].keeper.refresh()
    for turn in range(25):
        note(rooms[1], subject=f"s{turn}")
        writes = asyncio.create_task(rooms[1].keeper.flush())
        for _ in range(turn):
            await asyncio.sleep(0)
        await asyncio.gather(writes, rooms[0].service.erase(ACME, "acme", f"s{turn}"))
        assert await stored(database) == [], turn


async def test_erasures_are_forgotten_once_nobody_can_write_any_more(database: Database, clock: HeldClock) -> None:
    room = privacy(database, clock, key("k1"), key("k2"))
    await room.service.erase(ACME, "acme", "zora")

    async def remembered() -> int:
        async with database.read() as connection:
            return int((await connection.execute(sa.text("SELECT count(*) FROM privacy_erasures"))).scalar_one())

    assert await remembered() == 2
    await room.keeper.expire()
    assert await remembered() == 2
    clock.advance(timedelta(days=31).total_seconds() + (datetime.now(UTC) - clock.now()).total_seconds())
    await room.keeper.expire()
    assert await remembered() == 0


async def votes_of(database: Database) -> list[str]:
    async with database.read() as connection:
        both = "SELECT request_id FROM feedback UNION SELECT request_id FROM feedback_pending"
        votes = await connection.execute(sa.text(both))
        return sorted(votes.scalars())


async def test_votes_on_answers_that_are_not_kept_are_erased_too(database: Database, clock: HeldClock) -> None:
    room, recent, store = privacy(database, clock, key("k1")), RecentAnswers(100), FeedbackStore()
    voting = FeedbackService(database, store, GatewayStore(clock), recent, clock)
    voting.was_erased = room.service.was_erased
    for request, subject in (("r1", "zora"), ("r2", "bob"), ("r3", "zora")):
        recent.note("acme", request, "m:v1", None, subject)
    await voting.give(ACME, "r1", 0.0, "I, Zora, say no")
    await voting.give(ACME, "r2", 1.0)
    async with database.write() as connection:  # given at another gateway, which does not know whose it is
        await store.add_pending(connection, Vote("acme", "r3", 0.0, "Zora again", "k", clock.now()), 10)
    assert (await room.service.erase(ACME, "acme", "zora")).votes == 1
    await voting.take_pending()
    assert await votes_of(database) == ["r2"]


async def test_votes_while_another_erases_leave_nothing(database: Database) -> None:
    real, store = SystemClock(), FeedbackStore()
    room = Privacy(PrivacySettings(keys=(key("k1"),)), database, store, real, CollectorRegistry())
    recent = RecentAnswers(100)
    voting = FeedbackService(database, store, GatewayStore(real), recent, real)
    voting.was_erased = room.service.was_erased
    for turn in range(15):
        recent.note("acme", f"r{turn}", "m:v1", None, f"s{turn}")
        vote = asyncio.create_task(voting.give(ACME, f"r{turn}", 1.0))
        for _ in range(turn):
            await asyncio.sleep(0)
        await asyncio.gather(vote, room.service.erase(ACME, "acme", f"s{turn}"), return_exceptions=True)
        assert await votes_of(database) == [], turn

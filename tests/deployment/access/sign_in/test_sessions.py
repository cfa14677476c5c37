"""Sessions in memory and in the database: how long they last, and how fast they end everywhere."""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.deployment.access.test_sync import Road
from tests.support.held_clock import HeldClock
from typer.testing import CliRunner

from deployment.access import LOCAL_OPERATOR, Access, Permission, Principal
from deployment.access.audit import Act
from deployment.access.model import SessionRecord
from deployment.access.sessions import SessionStore
from deployment.access.sessions.browsers import csrf_token, from_origin
from deployment.access.sessions.store import MOST_OF_ONE
from deployment.cli.root import app
from deployment.clock import Clock, SystemClock
from deployment.database import Database
from deployment.errors import DatabaseUnavailable, Forbidden, NotFound, Unauthenticated
from deployment.settings import Settings, load

ISSUER = "https://sso.example"
ORIGIN = "https://llm.example"


def settings(**changes: Any) -> Settings:
    return load(
        server={"public_url": ORIGIN},
        access={
            "oidc": [{"issuer": ISSUER, "client_id": "console"}],
            "sessions": {"idle_seconds": 600, "lifetime_seconds": 3600},
            "offline_seconds": 100.0,
            **changes,
        },
    )


@asynccontextmanager
async def room(url: str, clock: Clock, **changes: Any) -> AsyncIterator[tuple[Access, Database]]:
    database = Database(url)
    access = Access(settings(**changes), database, clock)
    async with access.running():
        yield access, database
    await database.close()


async def begin(database: Database, clock: Clock, session_id: str, **changes: Any) -> SessionRecord:
    now = clock.now()
    record = SessionRecord(
        sha256=hashlib.sha256(session_id.encode()).hexdigest(),
        principal_id="sub-alice",
        name="alice",
        shown_name="Alice",
        tenant="default",
        roles=("viewer",),
        scopes=(),
        issuer=ISSUER,
        created_at=now,
        seen_at=now,
        expires_at=now + timedelta(seconds=3600),
        ended_at=None,
    )
    record = replace(record, **changes)
    act = Act(now, LOCAL_OPERATOR, "session.begin", record.public_id, {})
    await SessionStore(database).begin(act, record, "an.id.token", None)
    return record


def call(access: Access, session_id: str, method: str = "GET", *headers: tuple[bytes, bytes]) -> Principal:
    cookie = (b"cookie", f"a=b; __Host-ramsey-session={session_id}; c=d".encode())
    scope = {
        "type": "http",
        "method": method,
        "client": ("203.0.113.9", 1),
        "headers": [(b"host", b"llm.example"), cookie, *headers],
    }
    return access.authenticator.authenticate(scope)


def over(access: Access, session_id: str) -> bool:
    try:
        call(access, session_id)
    except Unauthenticated:
        return True
    return False


async def test_a_session_that_nobody_uses_ends_and_one_that_is_used_goes_on(database_url: str) -> None:
    clock = HeldClock()
    async with room(database_url, clock) as (access, database):
        await begin(database, clock, "idle")
        await begin(database, clock, "used")
        await access._sync.refresh()
        for _ in range(5):
            clock.advance(300)
            await access._sync.refresh()
            assert call(access, "used").name == "alice"
            await access._sync.flush()
        assert over(access, "idle")
        async with room(database_url, clock) as (other, _):
            assert call(other, "used").name == "alice", "another gateway knows that it was used"
        clock.advance(600 + 61)
        await access._sync.refresh()
        assert over(access, "used")


async def test_a_session_ends_after_its_lifetime_however_it_is_used(database_url: str) -> None:
    clock = HeldClock()
    async with room(database_url, clock) as (access, database):
        await begin(database, clock, "long")
        await access._sync.refresh()
        for _ in range(11):
            clock.advance(300)
            await access._sync.refresh()
            assert not over(access, "long")
        clock.advance(300)
        await access._sync.refresh()
        assert over(access, "long")
        await access._sync.flush()
        assert not access._directory.sessions._records, "what is over takes no memory"


async def test_an_end_reaches_the_other_processes_within_a_second(database_url: str) -> None:
    clock = SystemClock()
    async with room(database_url, clock) as (here, database), room(database_url, clock) as (there, _):
        record = await begin(database, clock, "session")

        async def until(known: bool) -> None:
            end = time.monotonic() + 30
            while over(there, "session") is known:
                assert time.monotonic() < end, "the other process never heard of it"
                await asyncio.sleep(0.02)

        await until(True)
        await here._sync.refresh()
        act = Act(clock.now(), LOCAL_OPERATOR, "session.end", record.public_id, {})
        assert await SessionStore(database).end(act, record.sha256) == "an.id.token"
        await here._sync.refresh()
        assert over(here, "session")
        await until(False)
        assert await SessionStore(database).end(act, record.sha256) is None, "the provider's token is gone"


async def test_who_may_no_longer_call_has_no_session(database_url: str) -> None:
    clock = SystemClock()
    async with room(database_url, clock) as (access, database):
        await access.service.create_tenant(LOCAL_OPERATOR, "acme", "Acme")
        await begin(database, clock, "session", tenant="acme")
        await begin(database, clock, "other issuer", issuer="https://gone.example")
        await access._sync.refresh()
        assert call(access, "session").tenant == "acme"
        assert over(access, "other issuer")
        await access.service.set_tenant_enabled(LOCAL_OPERATOR, "acme", False)
        assert over(access, "session")
        await access.service.set_tenant_enabled(LOCAL_OPERATOR, "acme", True)
        assert not over(access, "session")


async def test_own_roles_hold_for_sessions_and_change_at_once(database_url: str) -> None:
    clock = SystemClock()
    async with room(database_url, clock) as (access, database):
        await access.service.put_role(LOCAL_OPERATOR, "billing", ("usage:read",))
        await begin(database, clock, "session", roles=("billing",))
        await access._sync.refresh()
        assert [each.value for each in call(access, "session").permissions] == ["usage:read"]
        await access.service.put_role(LOCAL_OPERATOR, "billing", ("limits:read",))
        assert [each.value for each in call(access, "session").permissions] == ["limits:read"]


async def test_one_person_has_so_many_sessions_and_old_ones_leave_the_database(database_url: str) -> None:
    clock = HeldClock()
    async with room(database_url, clock) as (access, database):
        for number in range(MOST_OF_ONE + 3):
            clock.advance(1)
            await begin(database, clock, f"session-{number}")
        await begin(database, clock, "bob's", principal_id="sub-bob")
        await access._sync.refresh()
        kept = [number for number in range(MOST_OF_ONE + 3) if not over(access, f"session-{number}")]
        assert kept == list(range(3, MOST_OF_ONE + 3))
        assert not over(access, "bob's")
        clock.advance(3600 + 3601)
        await begin(database, clock, "much later")
        changes = await access.service._store.changes(0)
        assert changes is not None
        assert [record.sha256 for record in changes.sessions] == [hashlib.sha256(b"much later").hexdigest()]


async def test_administrators_see_and_end_the_sessions_of_their_tenant(database_url: str) -> None:
    clock = SystemClock()
    async with room(database_url, clock) as (access, database):
        service = access._sessions
        await access.service.create_tenant(LOCAL_OPERATOR, "acme", "Acme")
        ours = await begin(database, clock, "ours", tenant="acme", principal_id="sub-1")
        theirs = await begin(database, clock, "theirs", principal_id="sub-2")
        await begin(database, clock, "over", principal_id="sub-3", expires_at=clock.now())
        admin = replace(
            LOCAL_OPERATOR, tenant="acme", permissions=frozenset({Permission.KEYS_READ, Permission.KEYS_WRITE})
        )
        assert await service.sessions(admin, None, "", 10) == [ours]
        with pytest.raises(NotFound):
            await service.sessions(admin, "default", "", 10)
        for unknown in (theirs.public_id, "se_" + "0" * 16, "se_%", "", ours.sha256, ours.public_id.upper()):
            with pytest.raises(NotFound):
                await service.revoke(admin, unknown)
        first, second = await service.sessions(LOCAL_OPERATOR, None, "", 10)
        assert {first.sha256, second.sha256} == {ours.sha256, theirs.sha256}
        assert await service.sessions(LOCAL_OPERATOR, None, "", 1) == [first]
        assert await service.sessions(LOCAL_OPERATOR, None, first.public_id, 10) == [second]
        await access._sync.refresh()
        assert not over(access, "ours")
        for _ in range(2):
            assert (await service.revoke(admin, ours.public_id)).ended_at is not None
        assert over(access, "ours")
        assert await service.sessions(admin, None, "", 10) == []
        acts = [entry for entry in await access.service.audit(LOCAL_OPERATOR) if entry.action == "session.revoke"]
        assert [(act.subject, "alice" in act.detail) for act in acts] == [(ours.public_id, True)]


async def test_the_routes_and_verbs_of_sessions(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    database = Database(database_url)
    await database.upgrade()
    record = await begin(database, clock, "session")
    await database.close()
    monkeypatch.setenv("RAMSEY_DATABASE__URL", database_url)

    def ramsey(*words: str) -> str:
        result = CliRunner().invoke(app, ["sessions", *words])
        assert result.exit_code == 0, result.exc_info
        return result.stdout

    assert record.public_id in await asyncio.to_thread(ramsey, "list")
    (shown,) = json.loads(await asyncio.to_thread(ramsey, "list", "--json"))
    assert (shown["name"], shown["roles"], shown["ended_at"]) == ("alice", ["viewer"], None)
    assert record.sha256 not in str(shown)
    assert await asyncio.to_thread(ramsey, "revoke", record.public_id) == f"Signed alice out ({record.public_id}).\n"
    assert await asyncio.to_thread(ramsey, "list") == "Nobody is signed in with a browser.\n"


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_known_sessions_go_on_for_a_stated_time_while_the_database_is_away(
    database_url: str, tmp_path: Path
) -> None:
    road, clock = Road(database_url, tmp_path), HeldClock()
    async with room(road.url, clock) as (access, database):
        await begin(database, clock, "session")
        await access._sync.refresh()
        await road.close(database)
        clock.advance(99)
        assert call(access, "session").name == "alice"
        with pytest.raises(DatabaseUnavailable):
            call(access, "may be new")
        clock.advance(2)
        with pytest.raises(DatabaseUnavailable):
            call(access, "session")
        road.open()
        await access._sync.refresh()
        assert call(access, "session").name == "alice"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_only_reading_needs_no_token(database_url: str) -> None:
    clock = SystemClock()
    async with room(database_url, clock) as (access, database):
        await begin(database, clock, "session")
        await access._sync.refresh()
        origin, token = (b"origin", ORIGIN.encode()), (b"x-csrf-token", csrf_token(b"session").encode())
        for method in ("GET", "HEAD", "OPTIONS"):
            assert call(access, "session", method).name == "alice"
        for method in ("POST", "PUT", "PATCH", "DELETE", "get", "X"):
            with pytest.raises(Forbidden):
                call(access, "session", method)
            with pytest.raises(Forbidden):
                call(access, "session", method, origin)
            assert call(access, "session", method, origin, token).name == "alice"


@pytest.mark.parametrize(
    ("headers", "ours"),
    [
        ({}, False),
        ({b"origin": b"https://llm.example"}, True),
        ({b"origin": b"http://llm.example"}, False),
        ({b"origin": b"https://llm.example:8443"}, False),
        ({b"origin": b"https://llm.example.evil.example"}, False),
        ({b"origin": b"null"}, False),
        ({b"origin": b""}, False),
        ({b"sec-fetch-site": b"same-origin"}, True),
        ({b"sec-fetch-site": b"same-site"}, False),
        ({b"sec-fetch-site": b"none"}, False),
        ({b"sec-fetch-site": b"cross-site"}, False),
        ({b"sec-fetch-site": b"cross-site", b"origin": b"https://llm.example"}, False),
        ({b"sec-fetch-site": b"same-origin", b"origin": b"https://evil.example"}, False),
        ({b"referer": b"https://llm.example/auth", b"host": b"llm.example"}, False),
    ],
)
def test_from_our_own_page(headers: dict[bytes, bytes], ours: bool) -> None:
    assert from_origin(headers.items(), ORIGIN.encode()) is ours


def test_the_token_tells_nothing_of_the_session() -> None:
    assert csrf_token(b"a" * 43) != csrf_token(b"b" * 43)
    assert len(csrf_token(b"a" * 43)) == 64

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from datetime import timedelta
from functools import partial
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from tests.support.held_clock import HeldClock

from deployment.access import LOCAL_OPERATOR, Access, FileReport, KeyWish, Permission, check_lines
from deployment.access.audit import AuditEntry, Selection, first_break, seal
from deployment.database import Database
from deployment.errors import Conflict, Forbidden, InvalidRequest, NotFound
from deployment.settings import LimitSet, load


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    yield database
    await database.close()


@pytest.fixture
async def access(database: Database) -> AsyncIterator[Access]:
    access = Access(load(), database, HeldClock())
    async with access.running():
        yield access


async def test_every_administrative_act_is_recorded(access: Access) -> None:
    service, me = access.service, replace(LOCAL_OPERATOR, source="203.0.113.9", request_id="req-1")
    made = await service.create_key(me, KeyWish("shop", networks=("10.0.0.0/8",)))
    rotated = await service.rotate_key(me, made.new.public_id, timedelta(hours=1))
    await service.revoke_key(me, rotated.new.public_id)
    await service.create_tenant(me, "acme", "Acme Ltd")
    await service.set_tenant_enabled(me, "acme", False)
    await service.set_tenant_enabled(me, "acme", True)
    await service.put_role(me, "billing", ("usage:read",))
    await service.put_role(me, "billing", ("audit:read",))
    await service.delete_role(me, "billing")
    await service.put_limits(me, "model", "m", LimitSet(concurrent=3))
    await service.delete_limits(me, "model", "m")
    entries = list(reversed(await service.audit(me)))
    assert [(entry.action, entry.subject) for entry in entries] == [
        ("key.create", made.new.public_id),
        ("key.rotate", made.new.public_id),
        ("key.revoke", rotated.new.public_id),
        ("tenant.create", "acme"),
        ("tenant.disable", "acme"),
        ("tenant.enable", "acme"),
        ("role.put", "billing"),
        ("role.put", "billing"),
        ("role.delete", "billing"),
        ("limits.put", "model/m"),
        ("limits.delete", "model/m"),
    ]
    assert {(entry.actor, entry.source, entry.request_id) for entry in entries} == {("local", "203.0.113.9", "req-1")}
    assert json.loads(entries[7].detail) == {"before": ["usage:read"], "after": ["audit:read"]}
    assert json.loads(entries[9].detail) == {"before": {}, "after": {"concurrent": 3}}
    assert json.loads(entries[0].detail)["after"]["networks"] == ["10.0.0.0/8"]
    assert made.new.key not in "".join(map(repr, entries))
    report = await service.verify_audit(me)
    assert (report.entries, report.broken_at, report.last_hash) == (11, None, entries[-1].hash)


async def test_what_did_not_happen_is_not_recorded(access: Access) -> None:
    service = access.service
    with pytest.raises(Conflict):
        await service.create_tenant(LOCAL_OPERATOR, "default", "Again")
    for refused in (
        service.set_tenant_enabled(LOCAL_OPERATOR, "nobody", True),
        service.delete_role(LOCAL_OPERATOR, "nothing"),
        service.delete_limits(LOCAL_OPERATOR, "model", "m"),
        service.revoke_key(LOCAL_OPERATOR, "unknown"),
    ):
        with pytest.raises(NotFound):
            await refused
    assert await service.audit(LOCAL_OPERATOR) == []


async def test_acts_at_once_make_one_chain(access: Access) -> None:
    await asyncio.gather(*(access.service.create_key(LOCAL_OPERATOR, KeyWish(f"key {n}")) for n in range(20)))
    report = await access.service.verify_audit(LOCAL_OPERATOR)
    assert (report.entries, report.broken_at) == (20, None)


@pytest.mark.parametrize(
    ("tampering", "broken_at"),
    [
        ("UPDATE audit_log SET actor = 'somebody else' WHERE seq = 3", 3),
        ("UPDATE audit_log SET detail = '{}' WHERE seq = 1", 1),
        ("DELETE FROM audit_log WHERE seq = 2", 2),
        ("DELETE FROM audit_log WHERE seq = 1", 1),
        ("UPDATE audit_log SET seq = 9 WHERE seq = 5", 5),
    ],
)
async def test_tampering_is_noticed(access: Access, database: Database, tampering: str, broken_at: int) -> None:
    for number in range(5):
        await access.service.create_key(LOCAL_OPERATOR, KeyWish(f"key {number}"))
    async with database.write() as connection:
        await connection.execute(sa.text(tampering))
    assert (await access.service.verify_audit(LOCAL_OPERATOR)).broken_at == broken_at


def test_a_forged_entry_needs_every_later_one_forged() -> None:
    previous, entries = "0" * 64, []
    for seq in range(1, 4):
        entry = AuditEntry(seq, "2026", "a", "A", "t", "key.create", "k", "{}", "", "", previous, "")
        entries.append(replace(entry, hash=seal(entry)))
        previous = entries[-1].hash
    assert first_break(entries, 0, "0" * 64) is None
    forged = replace(entries[1], actor="b")
    assert first_break([entries[0], replace(forged, hash=seal(forged)), entries[2]], 0, "0" * 64) == 3


async def test_a_tenant_sees_its_own_administrators_acts(access: Access) -> None:
    service = access.service
    await service.create_tenant(LOCAL_OPERATOR, "acme", "Acme Ltd")
    theirs = replace(
        LOCAL_OPERATOR, id="k", tenant="acme", permissions=LOCAL_OPERATOR.permissions - {Permission.TENANTS_ALL}
    )
    await service.create_key(theirs, KeyWish("mine", roles=("user",)))
    assert [entry.action for entry in await service.audit(theirs)] == ["key.create"]
    with pytest.raises(NotFound):
        await service.audit(theirs, Selection(tenant="default"))
    with pytest.raises(Forbidden):
        await service.verify_audit(theirs)


async def test_a_selection_has_no_gaps_in_its_time(database: Database) -> None:
    clock = HeldClock()
    access = Access(load(), database, clock)
    async with access.running():
        times = []
        for number in range(6):
            times.append(clock.now())
            await access.service.create_key(LOCAL_OPERATOR, KeyWish(f"key {number}"))
            clock.advance(0.25)  # some times end in a second, which leaves its fraction out

        async def seqs(**wanted: Any) -> list[int]:
            return [entry.seq for entry in await access.service.audit(LOCAL_OPERATOR, Selection(**wanted), 4)]

        assert await seqs() == [6, 5, 4, 3]
        assert await seqs(before=3) == [2, 1]
        assert await seqs(after=0) == [1, 2, 3, 4]
        assert await seqs(after=4) == [5, 6]
        for first in range(6):
            for end in range(first, 6):
                wanted = Selection(after=0, since=times[first], until=times[end])
                found = await access.service.audit(LOCAL_OPERATOR, wanted, 100)
                assert [entry.seq for entry in found] == list(range(first + 1, end + 1))
        assert await seqs(since=clock.now()) == []
        assert await seqs(until=clock.now()) == [6, 5, 4, 3]
        with pytest.raises(NotFound, match="no tenant 'acme'"):
            await seqs(tenant="acme")
        await access.service.create_tenant(LOCAL_OPERATOR, "acme", "Acme")
        assert await seqs(tenant="acme") == []


async def test_a_look_in_parts_finds_what_a_look_at_all_finds(access: Access, database: Database) -> None:
    for number in range(7):
        await access.service.create_key(LOCAL_OPERATOR, KeyWish(f"key {number}"))
    verify = partial(access.service.verify_audit, LOCAL_OPERATOR)
    whole = await verify()
    parts = [await verify(after, 3) for after in (0, 3, 6)]
    assert [(part.entries, part.broken_at, part.of) for part in parts] == [(3, None, 7), (6, None, 7), (7, None, 7)]
    assert parts[-1] == whole
    async with database.write() as connection:
        await connection.execute(sa.text("DELETE FROM audit_log WHERE seq = 4"))
    assert [(await verify(after, 3)).broken_at for after in (0, 3, 4)] == [None, 4, 4]


def lines_of(entries: list[AuditEntry]) -> list[bytes]:
    return [json.dumps(asdict(entry) | {"detail": json.loads(entry.detail)}).encode() for entry in entries]


async def test_a_file_is_checked_without_the_database(access: Access) -> None:
    for number in range(6):
        await access.service.create_key(LOCAL_OPERATOR, KeyWish(f"key {number} ü"))
    lines = lines_of(await access.service.audit(LOCAL_OPERATOR, Selection(after=0)))
    last = json.loads(lines[-1])["hash"]
    assert check_lines(lines) == FileReport(6, 1, 6, last_hash=last)
    second = json.loads(lines[1])["hash"]
    assert check_lines(lines[2:]) == FileReport(4, 3, 6, before=second, last_hash=last)
    assert check_lines([]) == FileReport()
    assert check_lines([lines[1], lines[3]]).broken_at == 4
    assert check_lines([lines[1], lines[3]], gaps=True).left_out == 1
    assert check_lines([lines[3], lines[1]], gaps=True).broken_at == 2
    assert check_lines([*lines[:2], lines[1]], gaps=True).broken_at == 2
    forged = lines[2].replace(b"key 2", b"key 9")
    assert [check_lines([*lines[:2], forged, *lines[3:]], gaps=gaps).broken_at for gaps in (False, True)] == [3, 3]
    for junk in (b"", b"[]", b"{}", b"{"):
        with pytest.raises(InvalidRequest, match="Line 2 is no entry"):
            check_lines([lines[0], junk])


async def test_the_record_over_http_says_where_an_act_came_from(access: Access) -> None:
    admin = (await access.service.create_key(LOCAL_OPERATOR, KeyWish("admin", roles=("admin",)))).new.key
    app = FastAPI()
    app.include_router(access.routes())
    transport = httpx.ASGITransport(app, client=("203.0.113.9", 1))
    headers = {"x-api-key": admin}
    async with httpx.AsyncClient(transport=transport, base_url="http://llm.example", headers=headers) as client:
        await client.post("/admin/tenants", json={"id": "acme", "name": "Acme"})
        (newest,) = (await client.get("/admin/audit?limit=1")).json()
        (older,) = (await client.get(f"/admin/audit?before={newest['seq']}")).json()
        chain = (await client.get("/admin/audit/verify")).json()
    assert (newest["action"], newest["source"], newest["detail"]) == (
        "tenant.create",
        "203.0.113.9",
        {"after": {"name": "Acme"}},
    )
    assert (older["action"], older["source"]) == ("key.create", "")
    assert chain == {"whole": True, "entries": 2, "of": 2, "broken_at": None, "last_hash": newest["hash"]}
    assert newest["previous"] == older["hash"]

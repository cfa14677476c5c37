"""Refused access in the record."""

import json
from typing import Any

import aiohttp
import pytest
from tests.support.fake_node import FakeNode
from tests.support.held_clock import HeldClock
from tests.support.serving import serving

from deployment.access import LOCAL_OPERATOR, Access, KeyWish
from deployment.access.audit import AuditEntry
from deployment.access.refusals import MOST
from deployment.database import Database
from deployment.errors import DatabaseUnavailable, Forbidden, Unauthenticated
from deployment.settings import load


def scope(source: str, path: str = "/generate", **state: Any) -> dict[str, Any]:
    return {"client": (source, 1), "method": "POST", "path": path, "state": state}


async def room(url: str) -> tuple[Access, Database]:
    database = Database(url)
    await database.upgrade()
    return Access(load(), database, HeldClock()), database


async def recorded(access: Access) -> list[AuditEntry]:
    assert (await access.service.verify_audit(LOCAL_OPERATOR)).broken_at is None
    return (await access.service.audit(LOCAL_OPERATOR))[::-1]


async def test_refusals_of_one_caller_for_one_reason_are_one_entry(database_url: str) -> None:
    access, database = await room(database_url)
    await access.service.create_key(LOCAL_OPERATOR, KeyWish("shop"))
    for number in range(500):
        access.refusals.note(Unauthenticated("The key is not known here."), scope("10.0.0.1"), f"request-{number}")
    access.refusals.note(Forbidden("ann lacks a permission."), scope("10.0.0.1", caller=LOCAL_OPERATOR), "other")
    await access.refusals.flush()
    await access.refusals.flush()
    _, unknown, known = await recorded(access)
    assert (unknown.action, unknown.subject, unknown.source) == ("access.refused", "/generate", "10.0.0.1")
    assert (unknown.actor, unknown.tenant, unknown.request_id) == ("unknown", "", "request-0")
    assert json.loads(unknown.detail)["count"] == 500
    assert json.loads(unknown.detail)["reason"] == "unauthenticated"
    assert (known.actor, known.tenant, json.loads(known.detail)["reason"]) == ("local", "default", "forbidden")
    access.refusals.note(Unauthenticated("Again."), scope("10.0.0.1"), "later")
    await access.refusals.flush()
    assert len(await recorded(access)) == 4
    await database.close()


async def test_a_flood_from_everywhere_is_bounded_and_counted(database_url: str) -> None:
    access, database = await room(database_url)
    for number in range(1000):
        access.refusals.note(Unauthenticated("No."), scope(f"10.0.{number // 250}.{number % 250}"), "")
    await access.refusals.flush()
    entries = await recorded(access)
    assert len(entries) == MOST + 1
    assert sum(json.loads(entry.detail)["count"] for entry in entries) == 1000
    assert entries[-1].source == ""
    await database.close()


async def test_a_database_that_is_away_gets_them_later_within_the_bound(tmp_path: Any) -> None:
    access, database = await room(f"sqlite:///{tmp_path}/ramsey.db")
    away = Access(load(), Database("postgresql://nobody@127.0.0.1:1/none"), HeldClock())
    for turn in range(3):
        for number in range(MOST):
            away.refusals.note(Unauthenticated("No."), scope(f"10.0.{turn}.{number}"), "")
        with pytest.raises(DatabaseUnavailable):
            await away.refusals.flush()
    away.refusals._store = access.refusals._store
    await away.refusals.flush()
    entries = await recorded(access)
    assert len(entries) == MOST + 1
    assert sum(json.loads(entry.detail)["count"] for entry in entries) == 3 * MOST
    await database.close()


async def test_what_a_caller_wrote_cannot_forge_lines(tmp_path: Any) -> None:
    access, database = await room(f"sqlite:///{tmp_path}/ramsey.db")
    access.refusals.note(Unauthenticated("a\nb"), scope("10.0.0.1", "/x\n2026 admin: key.create" + "y" * 500), "")
    await access.refusals.flush()
    (entry,) = await recorded(access)
    assert entry.subject.startswith("/x?2026")
    assert len(entry.subject) == 200
    assert json.loads(entry.detail)["message"] == "a?b"
    await database.close()


async def test_the_gateway_records_whom_it_refused(tmp_path: Any) -> None:
    async with (
        FakeNode() as node,
        serving(node.url, data_dir=tmp_path) as (url, services),
        aiohttp.ClientSession() as http,
    ):
        made = await services.access.service.create_key(LOCAL_OPERATOR, KeyWish("shop", models=("other",)))
        for key in ("wrong", "wrong", made.new.key):
            headers = {"authorization": f"Bearer {key}", "x-request-id": f"id-{key[:5]}"}
            async with http.post(f"{url}/generate", json={"prompt": "hi"}, headers=headers) as answer:
                assert answer.status == (401 if key == "wrong" else 403)
        async with http.get(f"{url}/admin/keys", headers={"authorization": f"Bearer {made.new.key}"}) as answer:
            assert answer.status == 403
        async with http.get(f"{url}/nowhere") as answer:
            assert answer.status == 404
        await services.access.refusals.flush()
        _, unknown, shop = await recorded(services.access)
    assert (unknown.subject, unknown.request_id, json.loads(unknown.detail)["count"]) == ("/generate", "id-wrong", 2)
    assert (shop.actor, shop.actor_name, json.loads(shop.detail)["count"]) == (made.record.public_id, "shop", 2)
    assert made.new.key not in unknown.detail + shop.detail

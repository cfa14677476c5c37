import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.support.held_clock import HeldClock

from deployment.clock import SystemClock
from deployment.database import Database
from deployment.errors import Conflict, InvalidRequest
from deployment.releases.traffic import (
    Answered,
    FeedbackStore,
    GatewayStore,
    Outcome,
    OutcomeBatch,
    OutcomeStore,
    ShadowSample,
    Share,
    Split,
    TrafficStore,
    Vote,
    single,
)

OLD, NEW = "ramsey-model:v1.0", "ramsey-model:v1.1"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def test_a_split_is_kept_with_its_version(database: Database) -> None:
    store = TrafficStore(SystemClock())
    async with database.write() as connection:
        first = await store.put(connection, single("ramsey-model", OLD), expected_version=0)
    async with database.write() as connection:
        other = await store.put(connection, single("other", "other:v1"), expected_version=None)
        wish = Split("ramsey-model", (Share(OLD, 0.5), Share(NEW, 0.5)), set_by="k1", reason="a try")
        second = await store.put(connection, wish, expected_version=first.version)
    assert (first.version, other.version, second.version) == (1, 2, 3)
    async with database.read() as connection:
        assert await store.get(connection, "ramsey-model") == second == replace(wish, version=3, set_at=second.set_at)
        assert await store.all(connection) == [other, second]
        assert await store.version(connection) == 3
    async with database.write() as connection:
        await store.delete(connection, "other")
        assert await store.version(connection) == 4
        assert await store.get(connection, "other") is None


@pytest.mark.parametrize("expected", [0, 7])
async def test_who_saw_another_version_changes_nothing(database: Database, expected: int) -> None:
    store = TrafficStore(SystemClock())
    async with database.write() as connection:
        there = await store.put(connection, single("ramsey-model", OLD, set_by="k1"), expected_version=0)
    with pytest.raises(Conflict, match="changed meanwhile by k1: it has version 1"):
        async with database.write() as connection:
            await store.put(connection, single("ramsey-model", NEW), expected_version=expected)
    with pytest.raises(InvalidRequest):
        async with database.write() as connection:
            await store.put(connection, single("ramsey-model", "other:v1"), expected_version=None)
    async with database.read() as connection:
        assert await store.all(connection) == [there]
        assert await store.version(connection) == 1


async def test_of_many_who_change_the_same_version_one_wins(database: Database) -> None:
    store = TrafficStore(SystemClock())

    async def change(n: int) -> bool:
        try:
            async with database.write() as connection:
                await store.put(connection, single("ramsey-model", f"ramsey-model:v{n}"), expected_version=0)
        except Conflict:
            return False
        return True

    assert sum(await asyncio.gather(*(change(n) for n in range(8)))) == 1


async def test_gateways_are_alive_until_they_leave_or_fall_silent(database: Database) -> None:
    clock = HeldClock()
    store = GatewayStore(clock)
    async with database.write() as connection:
        for name, version in (("a", 1), ("b", 2), ("a", 2)):
            await store.beat(connection, name, version, None)
        assert {row.id: row.traffic_version for row in await store.alive(connection)} == {"a": 2, "b": 2}
        await store.leave(connection, "b")
        assert [row.id for row in await store.alive(connection)] == ["a"]


async def test_clocks_that_differ_make_no_gap(database: Database) -> None:
    clock = HeldClock()  # of another day than PostgreSQL's
    store = GatewayStore(clock)
    async with database.write() as connection:
        await store.beat(connection, "a", 1, clock.now() - timedelta(seconds=2))
        (row,) = await store.alive(connection)
        assert row.outcomes_at is not None
        assert row.seen_at - row.outcomes_at == timedelta(seconds=2)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_silent_gateway_is_gone_and_later_forgotten(database: Database) -> None:
    clock = HeldClock()
    store = GatewayStore(clock)
    async with database.write() as connection:
        await store.beat(connection, "a", 1, None)
        clock.advance(4.9)
        assert len(await store.alive(connection)) == 1
        clock.advance(0.2)
        assert await store.alive(connection) == []
        clock.advance(3600)
        await store.beat(connection, "b", 1, clock.now())
        clock.advance(-3600)
        assert [row.id for row in await store.alive(connection)] == ["b"]


async def test_outcomes_are_read_once_in_order_and_numbers_are_never_used_again(database: Database) -> None:
    store = OutcomeStore()
    outcome = Outcome(1.5, True, 0.1, False, 12.5, None, "gpu", 7, "abc")
    shadow = ShadowSample(1.5, None, False, 12.5, 10.0, 3.0, 2.0)
    async with database.write() as connection:
        await store.add(connection, "r1", OutcomeBatch(0, "a", NOW, [outcome], 3, [shadow]))
        await store.add(connection, "r2", OutcomeBatch(0, "a", NOW, []))
        await store.add(connection, "r1", OutcomeBatch(0, "b", NOW, [outcome, outcome]))
        batches = await store.after(connection, "r1", 0)
        assert [(each.gateway, len(each.outcomes), each.lost) for each in batches] == [("a", 1, 3), ("b", 2, 0)]
        assert batches[0] == OutcomeBatch(batches[0].seq, "a", NOW, [outcome], 3, [shadow])
        assert [each.seq for each in await store.after(connection, "r1", batches[0].seq)] == [batches[1].seq]
        assert len(await store.after(connection, "r1", 0, limit=1)) == 1
    last = batches[-1].seq
    async with database.write() as connection:
        await store.delete_through(connection, "r1", last)
        await store.delete_through(connection, "r2", last)
        await store.add(connection, "r1", OutcomeBatch(0, "a", NOW, [outcome]))
        assert (await store.after(connection, "r1", 0))[0].seq > last


async def test_an_answer_gets_one_vote(database: Database) -> None:
    store, vote = FeedbackStore(), Vote("acme", "req-1", 1.0, "good", "k1", NOW)
    async with database.write() as connection:
        assert await store.add(connection, vote, Answered(NEW, "r1", "ada"))
        assert not await store.add(connection, replace(vote, score=0.0), Answered(NEW, "r1", "ada"))
        assert not await store.add_pending(connection, vote, 5)
        assert await store.add(connection, replace(vote, tenant="other"), Answered(OLD, None, "ada"))
        found = await store.after(connection, "r1", 0)
        assert [(each.tenant, each.release, each.score) for each in found] == [("acme", NEW, 1.0)]
        assert await store.after(connection, "r1", found[0].seq) == []


async def test_votes_wait_for_their_gateway_within_a_bound(database: Database) -> None:
    store, vote = FeedbackStore(), Vote("acme", "req-1", 1.0, "good", "k1", NOW)
    later = replace(vote, request_id="req-2", given_at=NOW + timedelta(seconds=1), release=NEW)
    async with database.write() as connection:
        assert await store.add_pending(connection, later, 2)
        assert await store.add_pending(connection, vote, 2)
        assert not await store.add_pending(connection, vote, 3)
        assert not await store.add_pending(connection, replace(vote, request_id="req-3"), 2)
        assert await store.add_pending(connection, replace(vote, tenant="other"), 2)
        assert [each.request_id for each in await store.pending(connection)][-1] == "req-2"
        assert await store.drop_pending(connection, vote)
        assert not await store.drop_pending(connection, vote)
        assert len(await store.pending(connection)) == 2

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from tests.deployment.access.limits.conftest import Counted
from tests.support.held_clock import HeldClock
from tests.support.redis_server import RedisServer

from deployment.access import LOCAL_OPERATOR, Access, Principal
from deployment.access.limits import (
    Answer,
    LimitFact,
    LimitReached,
    Limits,
    MemoryCounters,
    Reservation,
    RuleBook,
    SharedCounters,
    ratelimit_headers,
)
from deployment.access.limits.keeper import BudgetKeeper
from deployment.access.limits.memory import Spending
from deployment.access.limits.store import SpendingStore
from deployment.clock import SystemClock
from deployment.database import Database
from deployment.errors import DatabaseUnavailable
from deployment.settings import LimitsSettings, load


def caller(name: str = "a", tenant: str = "acme") -> Principal:
    return Principal(name, name, tenant, frozenset(), frozenset(), None)


def limits(counted: Counted, **settings: Any) -> Limits:
    return Limits(RuleBook(LimitsSettings(**settings), counted.clock), counted.counters)


async def refused(limits: Limits, who: Principal, tokens: int = 1, model: str = "m") -> LimitReached:
    with pytest.raises(LimitReached) as caught:
        await limits.reserve(who, model, tokens)
    assert caught.value.status == 429
    return caught.value


async def test_requests_are_counted_over_any_minute(counted: Counted) -> None:
    mine = limits(counted, key={"requests_per_minute": 3})
    for _ in range(3):
        (await mine.reserve(caller(), "m", 10)).settle(10)
        await counted.advance(10)
    error = await refused(mine, caller())
    assert error.limit == "key requests/min"
    assert "The limit of 3 key requests/min is reached." in error.message
    assert error.retry_after_s == pytest.approx(35)  # taken at 0 s, and slices are 5 s long
    await counted.advance(34.9)
    await refused(mine, caller())
    await counted.advance(0.2)
    await mine.reserve(caller(), "m", 10)
    await refused(mine, caller())


async def test_tokens_are_reserved_then_reconciled(counted: Counted) -> None:
    mine = limits(counted, key={"tokens_per_minute": 100})
    first = await mine.reserve(caller(), "m", 80)
    assert (await refused(mine, caller(), 30)).limit == "key tokens/min"
    first.settle(20)
    await counted.settled()
    second = await mine.reserve(caller(), "m", 80)
    assert second.facts == (LimitFact("key tokens/min", 100, 0, 65.0, 60.0),)
    second.release()
    await counted.settled()
    await mine.reserve(caller(), "m", 80)


async def test_what_was_used_beyond_the_reservation_counts_too(counted: Counted) -> None:
    mine = limits(counted, key={"tokens_per_minute": 100})
    (await mine.reserve(caller(), "m", 10)).settle(95)
    await counted.settled()
    await refused(mine, caller(), 6)
    await mine.reserve(caller(), "m", 5)


async def test_a_reservation_ends_once(counted: Counted) -> None:
    mine = limits(counted, key={"tokens_per_minute": 100, "concurrent": 2})
    kept, reservation = await mine.reserve(caller(), "m", 10), await mine.reserve(caller(), "m", 50)
    for _ in range(3):
        reservation.settle(50)
        reservation.release()
    await counted.settled()
    await mine.reserve(caller(), "m", 40)
    assert (await refused(mine, caller(), 0)).limit == "key concurrent requests"
    kept.release()


async def test_a_released_request_was_never_there(counted: Counted) -> None:
    mine = limits(counted, key={"requests_per_minute": 1, "tokens_per_minute": 10, "concurrent": 1})
    for _ in range(5):
        with await mine.reserve(caller(), "m", 10):
            pass
        await counted.settled()
    with await mine.reserve(caller(), "m", 10) as served:
        served.settle(1)
    await counted.settled()
    await refused(mine, caller())


async def test_a_caller_that_leaves_while_it_reserves_takes_nothing(counted: Counted) -> None:
    mine = limits(counted, key={"requests_per_minute": 100, "tokens_per_day": 1000, "concurrent": 50})
    for turns in range(30):
        leaving = asyncio.create_task(mine.reserve(caller(), "m", 10))
        for _ in range(turns):
            await asyncio.sleep(0)
        leaving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            (await leaving).release()
    await counted.settled()
    facts = (await mine.reserve(caller(), "m", 10)).facts
    assert [fact.remaining for fact in facts] == [99, 49, 990]


async def test_concurrent_requests_are_places_that_come_back(counted: Counted) -> None:
    mine = limits(counted, key={"concurrent": 2})
    first, _second = await mine.reserve(caller(), "m", 5), await mine.reserve(caller(), "m", 5)
    error = await refused(mine, caller())
    assert (error.limit, error.retry_after_s) == ("key concurrent requests", 1.0)
    first.settle(5)
    await counted.settled()
    await mine.reserve(caller(), "m", 5)
    await refused(mine, caller())


async def test_a_refused_request_takes_of_no_limit(counted: Counted) -> None:
    mine = limits(counted, key={"requests_per_minute": 100}, tenant={"concurrent": 1}, model={"tokens_per_minute": 9})
    held = await mine.reserve(caller(), "m", 1)
    for _ in range(20):
        assert (await refused(mine, caller())).limit == "tenant concurrent requests"
    held.settle(1)
    await counted.settled()
    facts = {fact.name: fact.remaining for fact in (await mine.reserve(caller(), "m", 1)).facts}
    assert facts == {"key requests/min": 98, "tenant concurrent requests": 0, "model tokens/min": 7}


async def test_keys_tenants_and_models_are_counted_apart(counted: Counted) -> None:
    mine = limits(
        counted, key={"requests_per_minute": 2}, tenant={"requests_per_minute": 3}, model={"tokens_per_minute": 10}
    )
    await mine.reserve(caller("a"), "m", 5)
    await mine.reserve(caller("a"), "m", 5)
    assert (await refused(mine, caller("a"), 0)).limit == "key requests/min"
    assert (await refused(mine, caller("b"), 5)).limit == "model tokens/min"
    await mine.reserve(caller("b"), "other", 5)
    assert (await refused(mine, caller("c"), 0, "other")).limit == "tenant requests/min"
    await mine.reserve(caller("a", "other tenant"), "m", 5)


async def test_what_can_never_fit_says_so(counted: Counted) -> None:
    error = await refused(limits(counted, key={"tokens_per_minute": 100}), caller(), 101)
    assert error.retry_after_s is None
    assert error.message == "The request may use up to 101 tokens, and 100 of 100 key tokens/min are left."
    assert error.hint == "Send less text at once."


DAY = {"key": {"tokens_per_day": 1000}}
MINUTE = {"key": {"tokens_per_minute": 1000}}
MONEY = {"key": {"money_per_day": 1}, "prices": {"m": {"prompt": 0.5, "completion": 1.0}}}
BOTH = {"key": {"tokens_per_day": 1000}, "tenant": {"tokens_per_month": 700}}


@pytest.mark.parametrize(
    ("settings", "used", "prompt", "answer", "message", "hint", "retry"),
    [
        (
            *(DAY, 150, 47, 4096),
            "The request may use up to 4143 tokens (47 for the prompt, 4096 for the answer), and 850 of 1000 "
            "key tokens/day are left until 2026-11-25 00:00 UTC.",
            "Set max_tokens to at most 803.",
            None,
        ),
        (
            *(DAY, 950, 60, 2000),
            "The request may use up to 2060 tokens (60 for the prompt, 2000 for the answer), and 50 of 1000 "
            "key tokens/day are left until 2026-11-25 00:00 UTC.",
            "Set max_tokens to at most 940, and try again after 2026-11-25 00:00 UTC.",
            None,
        ),
        (
            *(DAY, 150, 2000, 10),
            "The request may use up to 2010 tokens (2000 for the prompt, 10 for the answer), and 850 of 1000 "
            "key tokens/day are left until 2026-11-25 00:00 UTC.",
            "Shorten the prompt.",
            None,
        ),
        (
            *(DAY, 600, 50, 400),
            "The request may use up to 450 tokens (50 for the prompt, 400 for the answer), and 400 of 1000 "
            "key tokens/day are left until 2026-11-25 00:00 UTC.",
            "Set max_tokens to at most 350, or try again after 2026-11-25 00:00 UTC.",
            43200,
        ),
        (
            *(MINUTE, 990, 50, 400),
            "The request may use up to 450 tokens (50 for the prompt, 400 for the answer), and 10 of 1000 "
            "key tokens/min are left.",
            "Try again in 65 s.",
            65,
        ),
        (
            *(DAY, 1000, 1, 1),
            "The limit of 1000 key tokens/day is reached.",
            "Try again after 2026-11-25 00:00 UTC, or ask an administrator for more.",
            43200,
        ),
        (
            *(MONEY, 800, 50, 400),
            "The request may cost up to 0.45: it may use up to 450 tokens (50 for the prompt, 400 for the answer), "
            "and 0.2 of 1 key money/day are left until 2026-11-25 00:00 UTC.",
            "Set max_tokens to at most 150, or try again after 2026-11-25 00:00 UTC.",
            43200,
        ),
        (
            *(BOTH, 100, 50, 2000),
            "The request may use up to 2050 tokens (50 for the prompt, 2000 for the answer), and 900 of 1000 "
            "key tokens/day are left until 2026-11-25 00:00 UTC.",
            "Set max_tokens to at most 550.",
            None,
        ),
    ],
)
async def test_a_refusal_says_what_is_left_until_when_and_what_would_fit(
    counted: Counted,
    settings: dict[str, Any],
    used: int,
    prompt: int,
    answer: int,
    message: str,
    hint: str,
    retry: float | None,
) -> None:
    mine = limits(counted, **settings)
    (await mine.reserve(caller(), "m", used)).settle(0, used)
    await counted.settled()
    with pytest.raises(LimitReached) as caught:
        await mine.reserve(caller(), "m", prompt + answer, Answer(answer, "max_tokens"))
    assert (caught.value.message, caught.value.hint) == (message, hint)
    assert caught.value.retry_after_s == (None if retry is None else pytest.approx(retry))
    if "at most" in hint and "try again after" not in hint.partition(", and")[2]:
        fitting = int(hint.partition("at most ")[2].split(",")[0].rstrip("."))
        with pytest.raises(LimitReached):
            await mine.reserve(caller(), "m", prompt + fitting + 1)
        await mine.reserve(caller(), "m", prompt + fitting)


async def test_what_can_never_fit_is_told_before_what_must_wait(counted: Counted) -> None:
    mine = limits(counted, key={"tokens_per_minute": 100, "tokens_per_day": 150})
    (await mine.reserve(caller(), "m", 90)).settle(90)
    await counted.settled()
    error = await refused(mine, caller(), 120)
    assert (error.limit, error.retry_after_s) == ("key tokens/min", None)


async def test_who_has_no_key_is_told_of_the_settings(counted: Counted) -> None:
    mine = limits(counted, tenant={"requests_per_minute": 1})
    nobody = replace(caller(), anonymous=True)
    await mine.reserve(nobody, "m", 1)
    await counted.advance(0.75)
    error = await refused(mine, nobody)
    assert error.retry_after_s == pytest.approx(64.25)
    assert error.hint == "Try again in 65 s, or raise limits.tenant in the settings."


async def test_without_limits_nothing_is_counted(counted: Counted) -> None:
    reservation = await limits(counted).reserve(caller(), "m", 10**9)
    reservation.settle(1)
    assert reservation.facts == ()


async def test_many_at_once_never_pass_a_limit_by_one(counted: Counted) -> None:
    mine = limits(counted, key={"requests_per_minute": 50}, tenant={"tokens_per_minute": 100})
    results = await asyncio.gather(
        *(mine.reserve(caller(), "m", 3 if number % 2 else 1) for number in range(200)), return_exceptions=True
    )
    granted = [result for result in results if isinstance(result, Reservation)]
    tokens = sum(charge.amount for one in granted for charge in one._charges if charge.rule.scope == "tenant")
    assert Counter(type(result) for result in results) == {Reservation: len(granted), LimitReached: 200 - len(granted)}
    assert len(granted) <= 50
    assert tokens <= 100
    assert len(granted) == 50 or tokens == 100


@given(
    st.lists(
        st.tuples(st.floats(0, 40), st.integers(0, 12), st.sampled_from(["settle", "release", "hold"])), max_size=60
    )
)
async def test_no_minute_ever_holds_more_than_the_limit(steps: list[tuple[float, int, str]]) -> None:
    clock = HeldClock()
    mine = Limits(
        RuleBook(LimitsSettings.model_validate({"key": {"tokens_per_minute": 20}}), HeldClock()), MemoryCounters(clock)
    )
    used: list[tuple[float, int]] = []
    for wait, tokens, end in steps:
        clock.advance(wait)
        try:
            reservation = await mine.reserve(caller(), "m", tokens)
        except LimitReached:
            continue
        if end == "release":
            reservation.release()
            continue
        if end == "settle":
            reservation.settle(tokens // 2)
        used.append((clock.monotonic(), tokens // 2 if end == "settle" else tokens))
        assert sum(amount for at, amount in used if at > clock.monotonic() - 60) <= 20


async def test_callers_that_went_away_are_forgotten() -> None:
    clock = HeldClock()
    counters = MemoryCounters(clock)
    mine = Limits(RuleBook(LimitsSettings.model_validate({"key": {"requests_per_minute": 5}}), HeldClock()), counters)
    for number in range(100):
        await mine.reserve(caller(f"key {number}"), "m", 1)
    clock.advance(70)
    await mine.reserve(caller("late"), "m", 1)
    assert len(counters._windows) == 1


async def test_places_of_a_gateway_that_died_come_back(redis: RedisServer) -> None:
    client = Redis.from_url(redis.url)
    await client.flushall()
    book = RuleBook(LimitsSettings.model_validate({"key": {"concurrent": 1}}), HeldClock())
    counters = SharedCounters.at(redis.url, 1, 600.0, SystemClock())
    mine = Limits(book, counters)
    await mine.reserve(caller(), "m", 1)
    await refused(mine, caller())
    (key,) = await client.keys("ramsey:limit:*")
    (lease,) = [member async for member, _ in client.zscan_iter(key)]
    await client.zadd(key, {lease: 1})  # its time is over
    await mine.reserve(caller(), "m", 1)
    await counters.close()
    await client.aclose()


async def test_without_redis_each_gateway_counts_its_share_and_nobody_is_kept_waiting(redis: RedisServer) -> None:
    clock = HeldClock()
    book = RuleBook(LimitsSettings.model_validate({"key": {"requests_per_minute": 9}}), HeldClock())
    counters = SharedCounters.at(redis.url, 3, 600.0, clock)
    mine = Limits(book, counters)
    shared = await mine.reserve(caller("z"), "m", 1)
    redis.kill()
    try:
        for _ in range(3):
            await mine.reserve(caller("y"), "m", 1)
        error = await refused(mine, caller("y"))
        assert error.facts[0].limit == 3
        assert counters.problem is not None
        shared.settle(1)
        shared.release()
    finally:
        redis.start()
    clock.advance(1.1)
    for _ in range(9):
        await mine.reserve(caller("y"), "m", 1)
    assert counters.problem is None
    await refused(mine, caller("y"))
    await counters.close()


async def test_what_is_given_back_while_redis_hangs_arrives_later(redis: RedisServer) -> None:
    client = Redis.from_url(redis.url)
    await client.flushall()
    clock = HeldClock()
    book = RuleBook(LimitsSettings.model_validate({"key": {"concurrent": 4}}), HeldClock())
    counters = SharedCounters.at(redis.url, 1, 600.0, clock)
    mine = Limits(book, counters)
    held = [await mine.reserve(caller(), "m", 1) for _ in range(3)]
    redis.freeze()
    try:
        (await mine.reserve(caller("b"), "m", 1)).release()
        assert counters.problem is not None
        for one in held:
            one.release()
        await asyncio.gather(*counters._returning)
    finally:
        redis.thaw()
    clock.advance(1.1)
    (await mine.reserve(caller("b"), "m", 1)).release()
    while counters._returning:
        await asyncio.gather(*counters._returning)
    assert (await mine.reserve(caller(), "m", 1)).facts[0].remaining == 3
    await counters.close()
    await client.aclose()


async def test_a_budget_is_for_a_calendar_day_and_month(counted: Counted) -> None:
    mine = limits(counted, key={"tokens_per_day": 100}, tenant={"tokens_per_month": 150})
    (await mine.reserve(caller(), "m", 90)).settle(60)
    await counted.settled()
    error = await refused(mine, caller(), 41)
    assert error.limit == "key tokens/day"
    assert error.retry_after_s == pytest.approx(12 * 3600)  # it is noon
    second = await mine.reserve(caller(), "m", 40)
    assert [(fact.name, fact.remaining, fact.reset_s) for fact in second.facts] == [
        ("key tokens/day", 0, 12 * 3600),
        ("tenant tokens/month", 50, 6.5 * 86400),
    ]
    second.settle(10)
    await counted.advance(12 * 3600)
    await counted.settled()
    third = await mine.reserve(caller(), "m", 80)
    assert (await refused(mine, caller(), 1)).limit == "tenant tokens/month"
    third.release()
    await counted.settled()
    await counted.advance(6 * 86400)  # the first of December
    await mine.reserve(caller(), "m", 100)


async def test_a_budget_that_is_nearly_used_up_is_told_once(counted: Counted) -> None:
    structlog.reset_defaults()  # another test of this process may log errors only
    mine = limits(counted, key={"tokens_per_day": 100})
    with structlog.testing.capture_logs() as logs:
        (await mine.reserve(caller(), "m", 90)).settle(24)  # what is only reserved comes back
        await counted.settled()
        for _ in range(3):
            (await mine.reserve(caller(), "m", 24)).settle(24)
            await counted.settled()
    assert [(log["event"], log["remaining"]) for log in logs] == [("budget_nearly_used", 4)]


async def test_budgets_outlive_a_restart(database_url: str) -> None:
    clock, who = HeldClock(), caller()
    settings = load(limits={"key": {"tokens_per_day": 100, "tokens_per_month": 150}})

    async def spend(tokens: int) -> tuple[int, ...]:
        database = Database(database_url)
        access = Access(settings, database, clock)
        async with access.running():
            reservation = await access.limits.reserve(who, "m", tokens)
            reservation.settle(tokens)
        await database.close()
        return tuple(fact.remaining for fact in reservation.facts)

    assert await spend(30) == (70, 120)
    assert await spend(30) == (40, 90)
    clock.advance(86400)
    assert await spend(30) == (70, 60)
    with pytest.raises(LimitReached, match="key tokens/month"):
        await spend(61)


async def test_gateways_without_redis_add_up_what_they_spent_of_a_budget(database_url: str) -> None:
    database, clock = Database(database_url), HeldClock()
    await database.upgrade()
    book = RuleBook(LimitsSettings.model_validate({"key": {"tokens_per_day": 1000}}), clock)

    def gateway() -> tuple[Limits, BudgetKeeper]:
        counters = MemoryCounters(clock)
        return Limits(book, counters), BudgetKeeper(counters, SpendingStore(database), clock)

    running = [gateway() for _ in range(3)]
    for _ in range(5):
        for mine, _ in running:
            (await mine.reserve(caller(), "m", 50)).settle(10)
        await asyncio.gather(*(keeper.save() for _, keeper in running))
    await asyncio.gather(*(keeper.save() for _, keeper in running))  # nothing new
    late, keeper = gateway()
    (await late.reserve(caller(), "m", 7)).settle(7)  # before its database came
    await keeper.save()
    assert (await late.reserve(caller(), "m", 1)).facts[0].remaining == 1000 - 3 * 5 * 10 - 7 - 1
    again, keeper = gateway()
    await keeper.save()
    assert (await again.reserve(caller(), "m", 1)).facts[0].remaining == 1000 - 3 * 5 * 10 - 7 - 1
    await database.close()


async def test_gateways_without_redis_know_of_each_other_s_spending_once_they_have_written(database_url: str) -> None:
    database, clock = Database(database_url), HeldClock()
    await database.upgrade()
    book = RuleBook(LimitsSettings.model_validate({"key": {"tokens_per_day": 1000}}), clock)
    counters = [MemoryCounters(clock) for _ in range(2)]
    (one, other), store = [Limits(book, each) for each in counters], SpendingStore(database)
    keepers = [BudgetKeeper(each, store, clock) for each in counters]

    async def saved() -> None:
        for keeper in keepers:
            await keeper.save()

    await saved()
    (await one.reserve(caller(), "m", 600)).settle(600)
    (await other.reserve(caller(), "m", 100)).settle(100)
    await saved()
    assert (await refused(other, caller(), 301)).facts[0].remaining == 300
    held = await other.reserve(caller(), "m", 300)
    await saved()
    await saved()  # the first has not spent anything, and looks all the same
    assert (await refused(one, caller(), 1)).facts[0].remaining == 0, "what is reserved counts too"
    held.settle(50)
    await saved()
    await saved()
    assert (await one.reserve(caller(), "m", 250)).facts[0].remaining == 0
    await database.close()


async def test_gateways_without_redis_that_know_how_many_they_are_never_pass_a_limit(database_url: str) -> None:
    database, clock = Database(database_url), HeldClock()
    await database.upgrade()
    settings = {"key": {"tokens_per_day": 1000, "requests_per_minute": 61}}
    book = RuleBook(LimitsSettings.model_validate(settings), clock)

    def gateway() -> tuple[Limits, BudgetKeeper]:
        counters = MemoryCounters(clock, 2)
        return Limits(book, counters), BudgetKeeper(counters, SpendingStore(database), clock, 2)

    async def spend(limits: Limits, tokens: int) -> int:
        spent = 0
        with contextlib.suppress(LimitReached):
            while True:
                (await limits.reserve(caller(), "m", tokens)).settle(tokens)
                spent += tokens
        return spent

    one, other = gateway(), gateway()
    for _, keeper in (one, other):
        await keeper.save()
    assert [await spend(limits, 10) for limits, _ in (one, other)] == [300, 300], "requests are shared"
    for _, keeper in (one, other):
        await keeper.save()
    clock.advance(70)
    after = gateway()  # the first was started anew
    await after[1].save()
    assert [await spend(limits, 10) for limits in (after[0], other[0])] == [200, 200]
    error = await refused(after[0], caller(), 501)
    assert (error.retry_after_s, error.facts[1].limit) == (None, 500), "it fits into no share"
    for _, keeper in (after, other):
        await keeper.save()
    (written,) = await SpendingStore(database).load(clock.now())
    assert written.tokens == 1000
    await database.close()


async def test_of_many_budgets_some_are_looked_at_in_turn(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployment.access.limits.keeper._MOST_LOOKED", 3)
    monkeypatch.setattr("deployment.access.limits.store._AT_ONCE", 2)
    database, clock = Database(database_url), HeldClock()
    await database.upgrade()
    book = RuleBook(LimitsSettings.model_validate({"key": {"tokens_per_day": 100}}), clock)
    one, other = MemoryCounters(clock), MemoryCounters(clock)
    keeper, others = (BudgetKeeper(each, SpendingStore(database), clock) for each in (one, other))
    for limits in (Limits(book, one), Limits(book, other)):
        for number in range(7):
            (await limits.reserve(caller(f"k{number}"), "m", 10)).settle(10)
    for _ in range(3):
        await keeper.save()
        await others.save()
    for _ in range(3):
        await keeper.save()
        await others.save()
    mine = Limits(book, one)
    left = [(await mine.reserve(caller(f"k{number}"), "m", 1)).facts[0].remaining for number in range(7)]
    assert left == [79] * 7
    await database.close()


async def test_no_spending_is_added_twice_where_reading_it_failed(database_url: str) -> None:
    database, clock = Database(database_url), HeldClock()
    await database.upgrade()
    book = RuleBook(LimitsSettings.model_validate({"key": {"tokens_per_day": 1000}}), clock)

    class Failing(SpendingStore):
        async def spent(self, counters: Sequence[str]) -> list[Spending]:
            raise DatabaseUnavailable("gone")

    counters = MemoryCounters(clock)
    mine, keeper = Limits(book, counters), BudgetKeeper(counters, Failing(database), clock)
    for _ in range(3):
        (await mine.reserve(caller(), "m", 10)).settle(10)
        with pytest.raises(DatabaseUnavailable):
            await keeper.save()
    (written,) = await SpendingStore(database).load(clock.now())
    assert written.tokens == 30
    await database.close()


async def test_what_was_spent_before_the_database_came_is_added() -> None:
    clock = HeldClock()
    counters = MemoryCounters(clock)
    book = RuleBook(LimitsSettings.model_validate({"key": {"tokens_per_day": 100}}), clock)
    mine = Limits(book, counters)
    (await mine.reserve(caller(), "m", 20)).settle(20)
    (stored,) = counters.spending()
    counters.take_up(Spending(stored.counter, 50, stored.ends_at))
    assert counters.spending() == [], "it is written already"
    assert (await mine.reserve(caller(), "m", 1)).facts[0].remaining == 29
    clock.advance(2 * 86400)
    await mine.reserve(caller(), "m", 1)
    assert len(counters._spent) == 1


def test_headers_tell_the_nearest_limit() -> None:
    facts = (
        LimitFact("key requests/min", 50, 10, 12.2, 60.0),
        LimitFact("key tokens/min", 1000, 900, 3.0, 60.0),
        LimitFact("key concurrent requests", 2, 0, 0.0, 0.0),
    )
    assert ratelimit_headers(facts) == {
        "RateLimit-Limit": "50",
        "RateLimit-Remaining": "10",
        "RateLimit-Reset": "13",
        "RateLimit-Policy": '50;w=60;name="key requests/min", 1000;w=60;name="key tokens/min"',
    }
    assert ratelimit_headers(facts, "key tokens/min")["RateLimit-Limit"] == "1000", "it is what refused"
    assert ratelimit_headers(facts, "key money/day")["RateLimit-Limit"] == "50"
    assert ratelimit_headers(()) == {}


def test_the_smallest_size_holds() -> None:
    book = RuleBook(
        LimitsSettings.model_validate({"key": {"max_output_tokens": 500}, "tenant": {"max_output_tokens": 99}}),
        HeldClock(),
    )
    sizes = book.sizes(LOCAL_OPERATOR, "m")
    assert (sizes.max_prompt_chars, sizes.max_output_tokens) == (None, 99)

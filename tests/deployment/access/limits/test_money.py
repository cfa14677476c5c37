"""Budgets of money: by prices, exact in memory and in Redis."""

from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from tests.deployment.access.limits.conftest import Counted
from tests.support.fake_node import FakeNode
from tests.support.held_clock import HeldClock
from tests.support.serving import serving

from deployment.access import LOCAL_OPERATOR, Access, KeyWish, Principal
from deployment.access.limits import LimitReached, Limits, RuleBook, ratelimit_headers
from deployment.access.limits.model import Kind, Rule
from deployment.database import Database
from deployment.errors import ConfigurationError, InvalidRequest
from deployment.settings import LimitSet, LimitsSettings, Price, load

PRICES = {"m": {"prompt": 0.5, "completion": 2.0}, "*": {"prompt": 1.0, "completion": 1.0}}
WHO = Principal("a", "a", "acme", frozenset(), frozenset(), None)


def limits(counted: Counted, prices: Any = PRICES, **settings: Any) -> Limits:
    return Limits(RuleBook(LimitsSettings(prices=prices, **settings), counted.clock), counted.counters)


async def refused(limits: Limits, tokens: int, model: str = "m") -> LimitReached:
    with pytest.raises(LimitReached) as caught:
        await limits.reserve(WHO, model, tokens)
    return caught.value


async def test_the_dearer_price_is_reserved_and_the_real_cost_kept(counted: Counted) -> None:
    mine = limits(counted, key={"money_per_day": 3})
    first = await mine.reserve(WHO, "m", 1000)
    assert first.facts[0].amounts == (3.0, 1.0)
    assert (await refused(mine, 501)).limit == "key money/day"
    first.settle(800, 200)  # 0.40 and 0.40
    await counted.settled()
    second = await mine.reserve(WHO, "m", 1100)
    assert second.facts[0].amounts == (3.0, 0.0)
    second.release()
    await counted.settled()
    await mine.reserve(WHO, "m", 1100)
    await refused(mine, 1)


async def test_models_are_dear_or_cheap_but_draw_on_one_budget(counted: Counted) -> None:
    mine = limits(counted, tenant={"money_per_month": 10})
    (await mine.reserve(WHO, "m", 1000)).settle(0, 1000)
    other = await mine.reserve(WHO, "other", 1000)
    assert other.facts[0].amounts == (10.0, 7.0)
    free = limits(counted, {"m": PRICES["m"]}, tenant={"money_per_month": 10})
    assert (await free.reserve(WHO, "other", 10**9)).facts == ()


@pytest.mark.parametrize(
    ("prices", "scope", "models", "fits"),
    [
        ({}, "tenant", (), False),
        ({}, "key", (), False),
        ({}, "model", ("m",), False),
        (PRICES, "tenant", (), True),
        ({"m": PRICES["m"]}, "tenant", (), True),
        ({"m": PRICES["m"]}, "key", (), True),
        ({"m": PRICES["m"]}, "key", ("m", "other"), True),
        ({"m": PRICES["m"]}, "key", ("other",), False),
        ({"m": PRICES["m"]}, "model", ("m",), True),
        ({"m": PRICES["m"]}, "model", ("other",), False),
        ({"*": PRICES["*"]}, "model", ("other",), True),
        ({"m": {"prompt": 0, "completion": 0}}, "model", ("m",), False),
    ],
)
async def test_a_budget_of_money_needs_a_price_of_a_model_that_it_is_for(
    prices: Any, scope: str, models: tuple[str, ...], fits: bool, tmp_path: Path
) -> None:
    database = Database(f"sqlite:///{tmp_path}/ramsey.db")
    access = Access(load(limits={"prices": prices}), database, HeldClock())
    async with access.running():
        key = (await access.service.create_key(LOCAL_OPERATOR, KeyWish("k", models=models))).record.public_id
        subject = {"key": key, "tenant": "default", "model": models[0] if models else ""}[scope]
        await access.service.put_limits(LOCAL_OPERATOR, scope, subject, LimitSet(tokens_per_day=1))
        for limits in (LimitSet(money_per_day=1), LimitSet(money_per_month=1)):
            wanted = access.service.put_limits(LOCAL_OPERATOR, scope, subject, limits)
            if fits:
                await wanted
                continue
            with pytest.raises(InvalidRequest, match="No price is set for") as caught:
                await wanted
            assert f'limits.prices."{min(models) if models else "*"}"' in (caught.value.hint or "")
        (kept,) = await access.service.limits(LOCAL_OPERATOR)
        assert (kept.limits.tokens_per_day is None) == fits
    await database.close()


async def test_a_budget_begins_anew_with_its_day(counted: Counted) -> None:
    mine = limits(counted, key={"money_per_day": 1})
    (await mine.reserve(WHO, "m", 500)).settle(0, 500)
    await counted.settled()
    error = await refused(mine, 1)
    assert error.message == "The limit of 1 key money/day is reached."
    assert error.retry_after_s == pytest.approx(12 * 3600, abs=1)
    await counted.advance(12 * 3600)
    await mine.reserve(WHO, "m", 500)


async def test_it_is_told_in_money_and_not_in_headers(counted: Counted) -> None:
    structlog.reset_defaults()
    mine = limits(counted, key={"money_per_day": 0.25, "requests_per_minute": 9})
    error = await refused(mine, 200)
    assert error.message.startswith("The request may cost up to 0.4: it may use up to 200 tokens, and 0.25 of 0.25 key")
    assert error.retry_after_s is None
    assert "money" not in str(ratelimit_headers(error.facts))
    assert ratelimit_headers(error.facts)["RateLimit-Limit"] == "9"
    with structlog.testing.capture_logs() as logs:
        (await mine.reserve(WHO, "m", 110)).settle(0, 110)
    assert [(log["event"], log["limit"], log["remaining"]) for log in logs] == [("budget_nearly_used", 0.25, 0.03)]


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0, 100), st.floats(0, 100))
def test_nothing_costs_more_than_what_was_reserved(prompt: int, completion: int, dear: float, cheap: float) -> None:
    rule = Rule("key", Kind.MONEY_DAY, 1, "c", price=Price(prompt=dear, completion=cheap))
    used = rule.used(prompt, completion)
    assert used <= rule.most(prompt + completion) + 1  # a millionth by rounding
    assert used == pytest.approx((prompt * dear + completion * cheap) * 1000, abs=1.001)


def test_a_budget_of_money_needs_prices() -> None:
    with pytest.raises(ConfigurationError, match=r"needs limits\.prices"):
        load(limits={"key": {"money_per_day": 1}})


async def test_the_gateway_charges_prompts_and_answers_at_their_prices(tmp_path: Path) -> None:
    prices = {"ramsey-model": {"prompt": 1.0, "completion": 100.0}}
    limit = {"key": {"money_per_day": 1000}, "prices": prices}
    async with FakeNode() as node, serving(node.url, data_dir=tmp_path, limits=limit) as (url, services):
        async with aiohttp.ClientSession() as http, http.post(f"{url}/generate", json={"prompt": "hi"}) as answer:
            told = await answer.json()
        caller = services.access.authenticator.authenticate(
            {"client": ("127.0.0.1", 1), "headers": [(b"host", b"localhost")]}
        )
        (fact,) = (await services.access.limits.reserve(caller, "ramsey-model", 0)).facts
    usage = told["usage"]
    assert usage["prompt_tokens"] > 0
    assert usage["completion_tokens"] > 0
    cost = usage["prompt_tokens"] * 0.001 + usage["completion_tokens"] * 0.1
    assert fact.amounts[1] == pytest.approx(1000 - cost)

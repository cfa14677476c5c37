"""What is set and can hardly be meant: told in the log, by the doctor and by the check of the settings."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
from tests.support.fake_node import FakeNode
from tests.support.held_clock import HeldClock
from tests.support.serving import serving

from deployment.access import LOCAL_OPERATOR, Access, KeyWish
from deployment.access.doubts import doubts
from deployment.access.model import KeyRecord
from deployment.clock import SystemClock
from deployment.database import Database
from deployment.releases import local_doubts
from deployment.settings import LimitSet, LimitsSettings, load

SERVED = ("ramsey-model", "other")
PRICE = {"prompt": 1, "completion": 2}
MONEY = LimitSet(money_per_day=1)


def key(public_id: str, *models: str) -> KeyRecord:
    made = datetime(2026, 1, 1, tzinfo=UTC)
    return KeyRecord(public_id, "0", "k", "t", ("user",), (), models, (), made, "me", None, None, None, None)


@pytest.mark.parametrize(
    ("settings", "stored", "keys", "told"),
    [
        ({}, {}, [], []),
        ({"prices": {"ramsey-model": PRICE, "*": PRICE}}, {("tenant", "t"): MONEY}, [key("a", "other")], []),
        (
            {"prices": {"ramsey-modle": PRICE}},
            {},
            [],
            ["limits.prices has a price for ramsey-modle, which is not served; did you mean ramsey-model?"],
        ),
        (
            {},
            {("model", "xyz"): LimitSet(concurrent=1), ("model", "other"): LimitSet(concurrent=1)},
            [],
            ["There are limits for the model xyz, which is not served (served: other, ramsey-model)."],
        ),
        (
            {},
            {},
            [key("a", "xyz", "other")],
            ["The key a is bound to the model xyz, which is not served (served: other, ramsey-model)."],
        ),
        (
            {},
            {},
            [key(name, "xyz") for name in "edcba"],
            [
                "The keys a, b, c and 2 more are bound to the model xyz, which is not served "
                "(served: other, ramsey-model)."
            ],
        ),
        (
            {"prices": {"other": PRICE}, "key": {"money_per_month": 5}},
            {("tenant", "t"): MONEY, ("model", "other"): MONEY, ("key", "a"): MONEY, ("key", "b"): MONEY},
            [key("a", "other"), key("b", "ramsey-model")],
            [
                "limits.key has a budget of money, but ramsey-model has no price and is free (limits.prices).",
                "The tenant t has a budget of money, but ramsey-model has no price and is free (limits.prices).",
                "The key b has a budget of money, but ramsey-model has no price and is free (limits.prices).",
            ],
        ),
        (
            {},  # the prices were taken out of the settings after the budget was given
            {("tenant", "t"): MONEY},
            [],
            ["The tenant t has a budget of money, but other, ramsey-model have no price and are free (limits.prices)."],
        ),
        (
            {"prices": {"ramsey-model": {"prompt": 0, "completion": 0}, "other": PRICE}},
            {("tenant", "t"): MONEY},
            [],
            [],
        ),
    ],
)
def test_what_can_hardly_be_meant(
    settings: Any, stored: Mapping[tuple[str, str], LimitSet], keys: list[KeyRecord], told: list[str]
) -> None:
    assert doubts(SERVED, LimitsSettings(**settings), stored, keys) == told


@pytest.mark.parametrize(
    ("settings", "stored", "gateways", "told"),
    [
        ({"key": {"concurrent": 1}}, {}, 2, True),
        ({}, {("tenant", "t"): LimitSet(tokens_per_day=1)}, 3, True),
        ({"key": {"concurrent": 1}}, {}, 1, False),
        ({"key": {"max_output_tokens": 9}}, {}, 2, False),
        ({"key": {"concurrent": 1}, "gateways": 2}, {}, 2, False),
        ({"key": {"concurrent": 1}, "gateways": 2}, {}, 3, True),
        ({"key": {"concurrent": 1}, "redis_url": "redis://localhost"}, {}, 2, False),
    ],
)
def test_gateways_that_count_apart(
    settings: Any, stored: Mapping[tuple[str, str], LimitSet], gateways: int, told: bool
) -> None:
    found = doubts(SERVED, LimitsSettings(**settings), stored, (), gateways)
    assert [text.startswith(f"{gateways} gateways share limits") for text in found] == [True] * told


async def test_two_gateways_over_one_database_are_told_of(tmp_path: Path) -> None:
    limit = {"key": {"concurrent": 5}}
    async with FakeNode() as node, serving(node.url, data_dir=tmp_path, limits=limit) as (_, one):
        assert await one.traffic_room.count_gateways() == 1
        assert await local_doubts(load(data_dir=tmp_path, limits=limit), SystemClock()) == []
        async with serving(node.url, data_dir=tmp_path, limits=limit):
            assert await one.traffic_room.count_gateways() == 2
            (told,) = await local_doubts(load(data_dir=tmp_path, limits=limit), SystemClock())
    assert told.startswith("2 gateways share limits and budgets without limits.redis_url")


async def test_each_is_logged_once_when_it_comes_and_again_when_it_comes_back(tmp_path: Path) -> None:
    structlog.reset_defaults()
    database = Database(f"sqlite:///{tmp_path}/ramsey.db")
    access = Access(load(), database, HeldClock())
    served = {"ramsey-model"}

    async def looked() -> list[str]:
        with structlog.testing.capture_logs() as logs:
            await access.doubts.look()
        return [log["problem"] for log in logs if log["event"] == "hardly_meant"]

    async with access.running():
        limit = LimitSet(concurrent=1)
        await access.service.put_limits(LOCAL_OPERATOR, "model", "other", limit)
        assert await looked() == [], "nothing is served yet"
        access.doubts.served = lambda: served
        assert await looked() == ["There are limits for the model other, which is not served (served: ramsey-model)."]
        await access.service.create_key(LOCAL_OPERATOR, KeyWish("k"))
        assert await looked() == []
        served.add("other")
        assert await looked() == []
        served.remove("other")
        assert len(await looked()) == 1

        async def two() -> int:
            return 2

        access.doubts.gateways = two
        assert await looked() == [], "one that died seems to live for a while"
        (apart,) = await looked()
        assert apart.startswith("2 gateways share limits")
    await database.close()


async def test_without_a_gateway_they_are_looked_for_in_the_database(tmp_path: Path) -> None:
    settings, clock = load(data_dir=tmp_path, limits={"prices": {"nobody": PRICE}}), HeldClock()
    (price,) = await local_doubts(settings, clock)
    assert "a price for nobody" in price
    assert not list(tmp_path.iterdir()), "nothing is made"
    database = Database(f"sqlite:///{tmp_path}/ramsey.db")
    access = Access(settings, database, clock)
    async with access.running():
        await access.service.create_key(LOCAL_OPERATOR, KeyWish("kept", models=("nowhere",)))
        gone = await access.service.create_key(LOCAL_OPERATOR, KeyWish("gone", models=("nowhere",)))
        await access.service.revoke_key(LOCAL_OPERATOR, gone.record.public_id)
    await database.close()
    _, bound = await local_doubts(settings, clock)
    assert bound.startswith("The key ")
    assert "bound to the model nowhere" in bound

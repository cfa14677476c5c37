from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from deployment.errors import ConfigurationError
from deployment.releases.rollout.freeze import frozen
from deployment.releases.rollout.plan import load, parse


def test_an_empty_plan_is_a_whole_one() -> None:
    plan = parse({})
    assert [step.weight for step in plan.path] == [0.05, 0.25, 0.5, 1.0]
    assert {(step.min_time, step.min_requests, step.deadline) for step in plan.path} == {(120.0, 100, 3600.0)}


def test_steps_are_shares_or_tables(tmp_path: Path) -> None:
    file = tmp_path / "rollout.toml"
    file.write_text(
        'steps = ["2.5%", { weight = "20 %", min_time = "90s", approval = true }, 1.0]\nmin_requests = 7\n'
        "[freeze]\nwindows = ['Fri 16:00 - Mon 08:00']\ntimezone = 'Europe/Berlin'\n"
    )
    steps = parse(load(file)).path
    assert [step.weight for step in steps] == [0.025, 0.2, 1.0]
    assert [step.min_time for step in steps] == [120.0, 90.0, 120.0]
    assert [step.approval for step in steps] == [False, True, False]


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"stategy": "canary"}, ["stategy: there is no such key", "did you mean strategy?"]),
        ({"gates": {"flor": 1}}, ["gates.flor", "did you mean floor?"]),
        ({"steps": [{"weight": "5%", "min_tim": "1m"}, "100%"]}, ["min_tim", "did you mean min_time?"]),
        ({"webhooks": [{"url": "http://x", "shap": "slack"}]}, ["did you mean shape?"]),
        ({"min_time": "5 minutes"}, ["min_time: write a length such as 30s"]),
        ({"steps": ["five"]}, ['write a share such as "5%"']),
        ({"steps": ["5%", "50%"]}, ['the last must be "100%"']),
        ({"steps": ["50%", "5%", "100%"]}, ["larger share than the one before"]),
        ({"steps": ["0%", "100%"]}, ["steps.0.weight"]),
        ({"steps": ["500%"]}, ["steps.0.weight"]),
        ({"strategy": "blue-green", "steps": ["5%", "100%"]}, ["blue-green has none but 100 %"]),
        ({"strategy": "ab", "steps": ["100%"]}, ['below "100%"']),
        ({"strategy": "yolo"}, ["strategy"]),
        ({"freeze": {"windows": ["Friday"]}}, ["'Friday' is no window"]),
        ({"freeze": {"timezone": "Mars/Olympus"}}, ["Mars/Olympus"]),
        ({"judge": {"alpha": 0}}, ["judge.alpha"]),
        ({"a": 1, "b": 2}, ["a: there is no such key", "b: there is no such key"]),
    ],
)
def test_what_is_wrong_is_named(plan: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(plan)
    for word in words:
        assert word in caught.value.message


def test_an_address_with_a_secret_is_not_told_in_errors() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse({"webhooks": [{"url": "hooks.example/T0/s3cret"}]})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"), [(b"steps = [", "not TOML"), (b"\xff", "not TOML"), (b"#" * 70_000, "larger than 64 KiB")]
)
def test_a_file_that_is_no_plan_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=words) as caught:
        load(file)
    assert "mine.toml" in caught.value.message


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nothing\.toml"):
        load(tmp_path / "nothing.toml")


@pytest.mark.parametrize(
    ("at", "holds"),
    [
        (datetime(2026, 11, 27, 14, 59, tzinfo=UTC), False),  # Friday 15:59 in Berlin
        (datetime(2026, 11, 27, 15, 0, tzinfo=UTC), True),
        (datetime(2026, 11, 29, 12, 0, tzinfo=UTC), True),
        (datetime(2026, 11, 30, 6, 59, tzinfo=UTC), True),
        (datetime(2026, 11, 30, 7, 0, tzinfo=UTC), False),
        (datetime(2026, 7, 31, 14, 0, tzinfo=UTC), True),  # summer time: 16:00
    ],
)
def test_a_window_may_go_over_the_weekend_by_its_own_clock(at: datetime, holds: bool) -> None:
    plan = parse({"freeze": {"windows": ["Fri 16:00 - Mon 08:00"], "timezone": "Europe/Berlin"}})
    assert (frozen(plan, at) is not None) == holds

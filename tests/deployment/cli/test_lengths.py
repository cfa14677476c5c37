"""Times, numbers and parts as people write them: understood, or refused with what to write."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from deployment.cli import access, traffic
from deployment.cli.admin import moment, span
from deployment.errors import ConfigurationError
from deployment.releases.rollout.plan import Length, Share

NOW = datetime(2026, 11, 26, tzinfo=UTC)
_numeric = st.text(st.sampled_from("0123456789.-+e_ smhdw%²٣½infa=")) | st.text(max_size=20)
LENGTH, SHARE = TypeAdapter[float](Length), TypeAdapter[float](Share)


@given(st.integers(0, 999_999), st.sampled_from("smhdw"))
def test_a_length_is_what_it_says(number: int, unit: str) -> None:
    seconds = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[unit]
    assert span(f"{number}{unit}", "--overlap") == timedelta(seconds=number * seconds)


@example("999999w")
@example("²d")
@example("9" * 5000 + "d")
@given(_numeric)
def test_no_time_breaks_the_command(text: str) -> None:
    for read in (lambda: span(text, "--expires"), lambda: moment(text, NOW, "--expires")):
        try:
            read()
        except ConfigurationError as error:
            assert error.message.startswith("--expires ")  # noqa: PT017 - it may be refused or not


@given(st.datetimes())
def test_a_time_reads_back(given_time: datetime) -> None:
    assert moment(given_time.isoformat(), NOW, "--expires") == given_time.replace(tzinfo=UTC)


@example("requests_per_minute=nan")
@example("requests_per_minute=1e999")
@example("requests_per_minute=²")
@example("x=" + "9" * 5000)
@given(_numeric)
def test_no_limit_breaks_the_command(text: str) -> None:
    try:
        name, number = access._pair(text)
    except ConfigurationError as error:
        assert "NAME=NUMBER" in error.message  # noqa: PT017 - it may be refused or not
        return
    assert text.startswith(name + "=")
    assert abs(number) < float("inf")


@given(st.integers(0, 10**15) | st.floats(0, 1e15))
def test_a_number_reads_back(number: float) -> None:
    assert access._pair(f"money_per_day={number}") == ("money_per_day", number)


@example("v1.1=nan")
@given(_numeric)
def test_no_part_of_the_traffic_breaks_the_command(text: str) -> None:
    try:
        release, part = traffic._part("m", text)
    except ConfigurationError:
        return
    assert release
    assert 0 <= part <= 1


@given(_numeric)
def test_no_length_or_share_of_a_plan_breaks_it(text: str) -> None:
    for kind, most in ((LENGTH, 30 * 86400), (SHARE, 1)):
        try:
            read = kind.validate_python(text)
        except ValidationError:
            continue
        assert 0 <= read <= most


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("1.5m", 90), ("250ms", 0.25), ("30d", 30 * 86400)])
def test_a_length_of_a_plan(text: str, seconds: float) -> None:
    assert LENGTH.validate_python(text) == seconds

"""The one line of every request, written past structlog."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from deployment.settings import LogSettings
from deployment.telemetry import configure_logging, info_line

FIELDS: dict[str, Any] = {"request_id": "a\nb\x1b[31m", "status": 200, "response_ms": 1.5, "prompt": "x"}


@pytest.fixture(autouse=True)
def afterwards() -> Iterator[None]:
    yield
    configure_logging(LogSettings())


def at_once(call: Callable[[], None]) -> None:
    call()


def test_it_is_what_structlog_would_write(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings())
    info_line("request", "request", at_once)(FIELDS)
    structlog.get_logger("request").info("request", **FIELDS)
    quick, slow = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    for line in (quick, slow):
        assert line.pop("time")[-1] == "Z"
        assert list(line) == ["request_id", "status", "response_ms", "prompt", "event", "level"]
    assert quick == slow


def test_it_keeps_to_the_level(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings(level="warning"))
    info_line("request", "request", at_once)({"status": 200})
    assert capsys.readouterr().out == ""


def test_a_person_at_a_terminal_gets_a_readable_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings(), readable=True)
    info_line("request", "request", at_once)({"status": 200})
    shown = capsys.readouterr().out
    assert "status" in shown
    assert not shown.startswith("{")


def test_lines_of_one_moment_go_out_together(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings())
    later: list[Callable[[], None]] = []
    line = info_line("request", "request", later.append)
    for status in (200, 404):
        line({"status": status})
    assert len(later) == 1
    later.pop()()
    assert [json.loads(one)["status"] for one in capsys.readouterr().out.splitlines()] == [200, 404]
    line({"status": 500})
    later.pop()()
    assert json.loads(capsys.readouterr().out)["status"] == 500

"""Work that must not end without a word."""

import asyncio
import json

import pytest

from deployment.background import forever, written_behind
from deployment.errors import DatabaseUnavailable
from deployment.settings import LogSettings
from deployment.telemetry import configure_logging


async def test_it_begins_anew_after_what_nobody_expected(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings())
    begun = 0
    going = asyncio.Event()

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            raise AttributeError("'NoneType' object has no attribute 'get'")
        if begun == 2:
            return
        if begun == 3:
            other = asyncio.create_task(asyncio.sleep(60))
            asyncio.get_running_loop().call_soon(other.cancel)
            await other
        going.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(forever(work, "checks of a", again_s=0.001))
    async with asyncio.timeout(30):
        await going.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert begun == 4
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["event"], line["work"]) for line in told] == [("background_work_failed", "checks of a")] * 2
    assert "AttributeError" in told[0]["exception"]
    assert "CancelledError" in told[1]["exception"]


async def test_what_is_written_behind_goes_on_after_faults_and_is_written_once_more_at_the_end() -> None:
    faults: list[Exception] = [DatabaseUnavailable("It is away."), KeyError("a fault that nobody expected")]
    written = 0
    again = asyncio.Event()

    async def step() -> None:
        nonlocal written
        if faults:
            raise faults.pop(0)
        written += 1
        again.set()

    async with asyncio.timeout(30), written_behind(step, 0.001, "record"):
        await again.wait()
        before = written
    assert written > before

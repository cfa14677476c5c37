"""Work that must not end without a word."""

import asyncio
import json

import pytest

from deployment.background import forever
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

"""Work that goes on in the background as long as the process does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NoReturn

import structlog

from deployment.errors import DatabaseUnavailable

_AGAIN_S = 1.0


async def forever(work: Callable[[], Awaitable[None]], name: str, again_s: float = _AGAIN_S) -> NoReturn:
    """Do work that never ends by itself. What ends it all the same, which nobody expected, is logged, and after
    `again_s` seconds it begins anew: a loop that is gone without a word would be noticed only when it is missed."""
    while True:
        try:
            await work()
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # we are to end; else it was only something that the work waited for
            structlog.get_logger("background").error("background_work_failed", work=name, exc_info=error)
        await asyncio.sleep(again_s)


@asynccontextmanager
async def going_on(work: Callable[[], Awaitable[None]], name: str) -> AsyncIterator[None]:
    """Do work that never ends by itself until the block ends, as `forever` does."""
    task = asyncio.create_task(forever(work, name), name=name)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def written_behind(step: Callable[[], Awaitable[None]], every_s: float, name: str) -> AsyncIterator[None]:
    """Take the step in the background until the end, and once more then. A database that is away only delays it."""

    async def now_and_then() -> None:
        while True:
            await asyncio.sleep(every_s)
            with contextlib.suppress(DatabaseUnavailable):
                await step()

    try:
        async with going_on(now_and_then, name):
            yield
    finally:
        with contextlib.suppress(DatabaseUnavailable):
            await step()

"""What is written behind: now and then, and once more at the end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

from deployment.errors import DatabaseUnavailable


@asynccontextmanager
async def written_behind(step: Callable[[], Awaitable[None]], every_s: float) -> AsyncIterator[None]:
    """Take the step in the background until the end, and once more then. A database that is away only delays it."""
    loop = asyncio.create_task(_loop(step, every_s))
    try:
        yield
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        with contextlib.suppress(DatabaseUnavailable):
            await step()


async def _loop(step: Callable[[], Awaitable[None]], every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        try:
            await step()
        except DatabaseUnavailable:
            continue
        except Exception as error:  # whatever it is, it must not end the writing for good
            structlog.get_logger("deployment.access").error("not_written_behind", exc_info=error)

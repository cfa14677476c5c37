"""Work that goes on in the background as long as the process does."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

import structlog

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

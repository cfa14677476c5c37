"""Asynchronous helpers (nodes, issuers) beside a test that itself waits on plain sockets: in a thread, with a loop."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

T = TypeVar("T")
_LIMIT_S = 60.0


class Background:
    """A running loop; what was entered is left at its end."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._entered: list[AbstractAsyncContextManager[object]] = []

    def enter(self, manager: AbstractAsyncContextManager[T]) -> T:
        """Enter it in the loop."""
        value = asyncio.run_coroutine_threadsafe(_enter(manager), self._loop).result(_LIMIT_S)
        self._entered.append(manager)
        return value

    def leave(self) -> None:
        """Leave everything, the last first."""
        while self._entered:
            asyncio.run_coroutine_threadsafe(_leave(self._entered.pop()), self._loop).result(_LIMIT_S)


@contextmanager
def background() -> Iterator[Background]:
    """A loop in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    running = Background(loop)
    try:
        yield running
    finally:
        try:
            running.leave()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


async def _enter(manager: AbstractAsyncContextManager[T]) -> T:
    return await manager.__aenter__()


async def _leave(manager: AbstractAsyncContextManager[object]) -> None:
    await manager.__aexit__(None, None, None)

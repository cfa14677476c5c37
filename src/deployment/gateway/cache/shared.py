"""One generation, many readers: identical requests that arrive while it runs read along."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from deployment.engines import Answer, Call, EnginePool
from deployment.ollama_client import Done, Event, Take, give


class Shared:
    """Runs one call in a task of its own, which ends early only when its last reader has left."""

    def __init__(
        self, pool: EnginePool, call: Call, keep: Callable[[list[Event]], Awaitable[None]], ended: Callable[[], None]
    ) -> None:
        self._pool, self._call, self._keep, self._ended = pool, call, keep, ended
        self.events: list[Event] = []
        self._error: BaseException | None = None
        self._over = False
        self._readers = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._answer: Answer | None = None
        self._task = asyncio.create_task(self._produce())

    def join(self) -> None:
        """One more reader. Each calls `leave` once."""
        self._readers += 1

    async def leave(self) -> None:
        """One reader less; the last one stops a generation that nobody reads."""
        self._readers -= 1
        if self._readers == 0 and not self._over:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(self._task)

    async def opened(self) -> Answer:
        """Where the events come from, once the first has come. Raises what kept it from coming."""
        while self._answer is None or not self.events:
            if self._over:
                raise self._error or asyncio.CancelledError
            await self._wait()
        return self._answer

    async def relay(self, take: Take) -> None:
        """Give every event to `take`, from the first on; raises where the generation did."""
        position = 0
        while True:
            while position < len(self.events):
                more, position = self.events[position:], len(self.events)
                await give(more, take)
            if self._over:
                if self._error is not None:
                    raise self._error
                return
            await self._wait()

    async def _produce(self) -> None:
        try:
            self._answer = await self._pool.open(self._call)
            try:
                await self._answer.relay(self._take)
            finally:
                await self._answer.aclose()
        except Exception as error:  # handed to every reader
            self._error = error
        finally:
            self._over = True
            self._wake()
            try:
                if self.events and isinstance(self.events[-1], Done):
                    await self._keep(self.events)
            finally:
                self._ended()  # after it was kept, so that nobody finds it in neither place

    def _take(self, event: Event) -> None:
        self.events.append(event)
        self._wake()

    async def _wait(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

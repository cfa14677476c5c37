"""The loaded models: one runner for each GGUF and set of load-time options.

A load is done once for all who wait for it and goes on when they leave. A runner serves as many requests as it
has slots; the others wait in order. One that dies takes only the requests that were inside it along, and is
started again. An idle one goes when its keep-alive is over, or when another model needs its place.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import aiohttp

from deployment.clock import Clock
from deployment.embedded.child import Child
from deployment.embedded.loaded import Key, Runner, Wanted
from deployment.errors import EngineBusy, EngineCrashed

log = logging.getLogger(__name__)

BUSY = "server busy, please try again.  maximum pending requests exceeded"
# A runner that lived shorter is not started again by itself: the next request tries.
_SHORT_LIFE_S = 5.0


@dataclass(frozen=True)
class Lease:
    """A slot of a runner. `load_s` is how long it took to get the runner loaded."""

    child: Child
    client: aiohttp.ClientSession
    load_s: float


class Runners:
    """All of them. `open` and `close` belong to the node's lifespan."""

    def __init__(
        self,
        *,
        slots: int,
        max_queue: int,
        max_loaded: int,
        load_timeout_s: float,
        stall_s: float,
        keep_alive: float,
        clock: Clock,
    ) -> None:
        self.slots = slots
        self._max_queue = max_queue
        self._max_loaded = max_loaded
        self._load_timeout_s = load_timeout_s
        self._stall_s = stall_s
        self._keep_alive = keep_alive
        self._clock = clock
        self._loaded: dict[Key, Runner] = {}
        self._loading: dict[Key, asyncio.Task[Runner]] = {}
        self._waiting: Counter[Key] = Counter()  # requests that wait for a load
        self._starting = 0
        self._room = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._client: aiohttp.ClientSession | None = None
        self._closed = False

    def open(self, client: aiohttp.ClientSession) -> None:
        """Take the HTTP client to the children."""
        self._client = client

    async def close(self) -> None:
        """Stop every runner."""
        self._closed = True
        for load in self._loading.values():
            load.cancel()
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        for runner in list(self._loaded.values()):
            self._unload(runner)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def loaded(self) -> list[Runner]:
        """The runners that serve, the one that stays longest first."""
        runners = [runner for runner in self._loaded.values() if runner.child.alive]
        return sorted(runners, key=lambda each: self.expiry(each), reverse=True)

    def expiry(self, runner: Runner) -> datetime:
        """When it goes, if nothing more comes."""
        return runner.expires_at or runner.expiry(self._clock.now())

    @asynccontextmanager
    async def lease(self, wanted: Wanted, keep_alive: float | None) -> AsyncIterator[Lease]:
        """A slot for one request: loads when needed, waits its turn.

        `keep_alive` in seconds; None is the node's. Raises EngineBusy, LoadFailed.
        """
        began = self._clock.monotonic()
        runner = await self._take(wanted)
        load_s = self._clock.monotonic() - began
        while not await self._enter(runner, keep_alive):
            # It died while we waited: nothing of ours was in it, so another one serves us.
            runner = await self._take(wanted)
        try:
            yield Lease(runner.child, self._required_client, load_s)
        except EngineCrashed:
            # The connection told us before the process did: nobody else shall be sent there.
            runner.broken = True
            runner.child.kill()
            raise
        finally:
            runner.slots.release()
            self._give_back(runner, keep_alive)

    async def _enter(self, runner: Runner, keep_alive: float | None) -> bool:
        """Wait for a slot; False, and nothing held, when the runner is gone."""
        try:
            await runner.slots.acquire()
        except BaseException:
            self._give_back(runner, keep_alive)
            raise
        if self._serves(runner):
            return True
        runner.slots.release()
        self._give_back(runner, keep_alive)
        return False

    async def load(self, wanted: Wanted, keep_alive: float | None) -> float:
        """Load, without a request; the seconds that it took."""
        began = self._clock.monotonic()
        runner = await self._take(wanted)
        self._give_back(runner, keep_alive)
        return self._clock.monotonic() - began

    def expire(self, digest: str) -> None:
        """Unload a GGUF's runners as soon as nobody uses them."""
        for runner in [each for each in self._loaded.values() if each.wanted.key.digest == digest]:
            runner.keep_alive = 0.0
            if runner.users == 0:
                self._rest(runner)

    # --- loading ---

    async def _take(self, wanted: Wanted) -> Runner:
        """The runner for it, counted as used; loaded first if need be."""
        while True:
            runner = self._loaded.get(wanted.key)
            if runner is None or runner.retiring or not self._serves(runner):
                runner = await self._wait_for_load(wanted)
            else:
                runner.users += 1
            if self._serves(runner):
                runner.cancel_timer()
                runner.expires_at = None
                return runner
            self._give_back(runner, None)

    async def _wait_for_load(self, wanted: Wanted) -> Runner:
        """The loaded runner, which already counts us as its user."""
        key = wanted.key
        if self._waiting.total() >= self._max_queue:
            raise EngineBusy(BUSY)
        load = self._loading.get(key)
        if load is None:
            load = self._loading[key] = asyncio.create_task(self._load(wanted))
            load.add_done_callback(_log_failure)
        self._waiting[key] += 1
        try:
            # Shielded: whoever leaves, the load goes on for those who stay or come.
            return await asyncio.shield(load)
        except asyncio.CancelledError:
            if load.done() and not load.cancelled() and load.exception() is None:
                self._give_back(load.result(), None)
            raise
        finally:
            self._waiting[key] -= 1

    async def _load(self, wanted: Wanted) -> Runner:
        key = wanted.key
        if (dead := self._loaded.get(key)) is not None and not self._serves(dead):
            self._forget(dead)
        try:
            await self._make_room(key)
            try:
                began = self._clock.monotonic()
                child = await Child.start(wanted.blob, key.options, self.slots, self._load_timeout_s)
                now = self._clock.monotonic()
                runner = Runner(wanted, child, self.slots, now, self._keep_alive)
                self._loaded[key] = runner
            finally:
                self._starting -= 1
                self._background(self._tell_room())
        finally:
            del self._loading[key]
        # It belongs to those who wait before they run again: nobody can take their place in between.
        runner.users = self._waiting[key]
        if not runner.users:
            self._rest(runner)
        self._background(self._watch(runner))
        log.info("loaded %s in %.2f s (runner %d)", wanted.name, now - began, child.pid)
        return runner

    async def _make_room(self, key: Key) -> None:
        """Wait until one more may be loaded.

        The idle runner that was used longest ago makes way. Where none is idle, one retires: it ends what it has,
        so that a model in constant use cannot keep another one out.
        """
        retired: Runner | None = None
        async with self._room:
            while key in self._loaded or len(self._loaded) + self._starting >= self._max_loaded:
                rest = sorted(self._loaded.values(), key=lambda each: each.last_used)
                idle = [each for each in rest if each.users == 0]
                if idle:
                    self._unload(idle[0])
                    continue
                if retired is None or not self._serves(retired):
                    retired = next((each for each in rest if not each.retiring), None)
                    if retired is not None:
                        retired.retiring = True
                await self._room.wait()
            self._starting += 1

    # --- idling, dying, leaving ---

    def _give_back(self, runner: Runner, keep_alive: float | None) -> None:
        runner.users -= 1
        runner.last_used = self._clock.monotonic()
        if keep_alive is not None:
            runner.keep_alive = keep_alive
        if runner.users == 0:
            self._rest(runner)
            self._background(self._tell_room())

    def _rest(self, runner: Runner) -> None:
        """Nobody uses it: its keep-alive begins."""
        runner.cancel_timer()
        if not self._serves(runner):
            return
        runner.expires_at = runner.expiry(self._clock.now())
        if runner.keep_alive <= 0 or runner.retiring:
            self._unload(runner)
        else:
            runner.start_timer(self._unload)

    def _unload(self, runner: Runner) -> None:
        self._forget(runner)
        self._background(self._stop(runner))

    def _forget(self, runner: Runner) -> None:
        runner.cancel_timer()
        if self._loaded.get(runner.wanted.key) is runner:
            del self._loaded[runner.wanted.key]
            if not self._closed:
                self._background(self._tell_room())

    async def _stop(self, runner: Runner) -> None:
        await runner.child.stop()
        log.info("unloaded %s (runner %d)", runner.wanted.name, runner.child.pid)

    async def _watch(self, runner: Runner) -> None:
        """Notice its death; start it again when it had served for a while and was not told to go."""
        guard = asyncio.create_task(self._end_when_stuck(runner))
        status = await runner.child.wait()
        guard.cancel()
        if self._loaded.get(runner.wanted.key) is not runner:
            return
        self._forget(runner)
        log.error("runner %d of %s died: exit status %d", runner.child.pid, runner.wanted.name, status)
        if self._closed or self._clock.monotonic() - runner.born < _SHORT_LIFE_S:
            return
        keep_alive = runner.keep_alive
        self._background(self._start_again(runner.wanted, keep_alive))

    async def _end_when_stuck(self, runner: Runner) -> None:
        """Kill it when it is in use and hangs: nobody gets an answer from it, and only its end frees its slots."""
        while True:
            await asyncio.sleep(self._stall_s / 4)
            if runner.users and not await runner.child.turns(self._required_client, self._stall_s):
                log.error("runner %d of %s hangs: it is ended", runner.child.pid, runner.wanted.name)
                runner.child.kill()
                return

    async def _start_again(self, wanted: Wanted, keep_alive: float) -> None:
        try:
            await self.load(wanted, keep_alive)
        except Exception as error:
            log.warning("cannot start %s again: %s", wanted.name, error)

    async def _tell_room(self) -> None:
        async with self._room:
            self._room.notify_all()

    def _serves(self, runner: Runner) -> bool:
        return runner.child.alive and not runner.broken and self._loaded.get(runner.wanted.key) is runner

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def _required_client(self) -> aiohttp.ClientSession:
        if self._client is None:
            raise RuntimeError("Runners.open was not called")
        return self._client


def _log_failure(load: asyncio.Task[Runner]) -> None:
    if not load.cancelled() and load.exception() is not None:
        log.warning("cannot load: %s", load.exception())

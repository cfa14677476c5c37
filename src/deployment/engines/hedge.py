"""A second node asked for a first token that is late: the sooner answer is kept, the other is cancelled."""

import asyncio
from collections import deque
from collections.abc import Callable

from deployment.engines.attempt import Attempt
from deployment.engines.metrics import PoolMetrics
from deployment.errors import EngineError
from deployment.ollama_client import Event

_SAMPLES = 200
_NEEDED = 20
_RENEW = 20


class Budget:
    """How many requests may be hedged: at most `share` of those seen. Pure."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._credit = 0.0

    def seen(self) -> None:
        """A request came."""
        self._credit = min(self._credit + self._share, 10.0)

    def take(self) -> bool:
        """Whether one more may be hedged; counts it."""
        if self._credit < 1.0:
            return False
        self._credit -= 1.0
        return True


class Lateness:
    """The p95 of the first-token times of a release, from its last answers. Pure."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=_SAMPLES)
        self._since = 0
        self._p95: float | None = None

    def add(self, seconds: float) -> None:
        """One more first token."""
        self._times.append(seconds)
        self._since += 1
        if self._since >= _RENEW and len(self._times) >= _NEEDED:
            self._since = 0
            self._p95 = sorted(self._times)[int(len(self._times) * 0.95)]

    @property
    def p95(self) -> float | None:
        """None until enough is known."""
        return self._p95


class Hedger:
    """Decides when, and runs the race."""

    def __init__(self, share: float, metrics: PoolMetrics) -> None:
        self._on = share > 0
        self._budget = Budget(share)
        self._metrics = metrics
        self._late: dict[str, Lateness] = {}

    def after(self, release: str, *, whole: bool) -> float | None:
        """Seconds after which a first token is late; None: no race for this request.

        Whole answers are not hedged: their first event is their last, and long ones would be late.
        """
        if not self._on or whole:
            return None
        self._budget.seen()
        return self._late.setdefault(release, Lateness()).p95 or float("inf")

    async def race(
        self, attempt: Attempt, second: Callable[[], Attempt | None], after_s: float
    ) -> tuple[Attempt, list[Event]]:
        """The attempt that gave its first event first, with that event. The other is over when this returns.

        Raises the first attempt's error when none gives one.
        """
        release = attempt.release
        runs = {asyncio.ensure_future(attempt.first()): attempt}
        first_run = next(iter(runs))
        try:
            await asyncio.wait(runs, timeout=None if after_s == float("inf") else after_s)
            if not first_run.done() and self._budget.take() and (other := second()) is not None:
                runs[asyncio.ensure_future(other.first())] = other
            winner = await _first_good(list(runs))
        except BaseException:
            await _end(runs, None)
            raise
        await _end(runs, winner)
        if len(runs) > 1:
            self._metrics.hedge(attempt.node.name, release, winner is not first_run)
        if winner is None:
            raise first_run.exception() or EngineError("The race had no winner.")
        won = runs[winner]
        self._late[release].add(won.first_s)
        return won, winner.result()


async def _first_good(runs: list[asyncio.Task[list[Event]]]) -> asyncio.Task[list[Event]] | None:
    waiting = set(runs)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for run in runs:
            if run in done and run.exception() is None:
                return run
    return None


async def _end(runs: dict[asyncio.Task[list[Event]], Attempt], winner: asyncio.Task[list[Event]] | None) -> None:
    """Cancel and close all but the winner."""
    losers = [run for run in runs if run is not winner]
    for run in losers:
        run.cancel()
    await asyncio.gather(*losers, return_exceptions=True)
    for run in losers:
        await runs[run].aclose()

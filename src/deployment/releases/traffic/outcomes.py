"""Notes what became of requests while a rollout runs, and writes it behind, in batches."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from prometheus_client import CollectorRegistry, Counter

from deployment.background import going_on
from deployment.clock import Clock
from deployment.database import Database
from deployment.errors import DatabaseUnavailable, Draining, RamseyError
from deployment.releases.traffic.choice import Choice
from deployment.releases.traffic.model import Split
from deployment.releases.traffic.outcome import Outcome, OutcomeBatch, ShadowSample
from deployment.releases.traffic.outcome_store import OutcomeStore

FLUSH_S = 0.5
_LIMIT_S = 5.0
MOST = 20_000
"""Outcomes kept while the database is away; what comes then is counted as lost, and the judge is told."""
_FORGET = timedelta(days=7)
LOADED_MS = 50.0
"""Below this a node only looked its loaded model up."""

_log = structlog.get_logger("traffic")


@dataclass(slots=True, eq=False)
class Watch:
    """A request under judgement, from its arrival on."""

    rollout: str
    at: float
    """Arrival, epoch seconds."""
    began: float
    """The same in monotonic seconds."""
    candidate: bool
    weight: float
    length: int
    cluster: str | None
    limit_s: float
    """When it has said nothing for so long, it counts as failed."""
    over: bool = False

    def outcome(
        self, *, failed: bool, ttft_ms: float | None = None, token_ms: float | None = None, node_class: str = ""
    ) -> Outcome:
        """What became of it."""
        return Outcome(
            self.at, self.candidate, self.weight, failed, ttft_ms, token_ms, node_class, self.length, self.cluster
        )


@dataclass(slots=True)
class _Unwritten:
    outcomes: list[Outcome] = field(default_factory=list)
    shadows: list[ShadowSample] = field(default_factory=list)
    lost: int = 0


def is_failure(error: BaseException) -> bool:
    """Whether an error is the service's: not a caller's mistake, a limit, a caller who left, or our own stop."""
    return (
        isinstance(error, RamseyError) and error.status >= 500 and not isinstance(error, Draining | DatabaseUnavailable)
    )


class Recorder:
    """One for a process. Noting never waits; memory is bounded."""

    def __init__(
        self,
        database: Database,
        store: OutcomeStore,
        clock: Clock,
        gateway: str,
        registry: CollectorRegistry,
        *,
        silent_s: float,
        whole_s: float,
    ) -> None:
        """`silent_s`: a stream without a token for so long counts as failed; `whole_s`: an answer in one piece."""
        self._database, self._store, self._clock, self._gateway = database, store, clock, gateway
        self._silent_s, self._whole_s = silent_s, whole_s
        self._waiting: dict[Watch, None] = {}
        self._unwritten: dict[str, _Unwritten] = {}
        self._count = 0
        self.written_at: datetime | None = None
        """Every outcome before then is written down."""
        self._lost = Counter(
            "ramsey_outcomes_lost", "Outcomes that the judge never sees, the database being away", registry=registry
        )

    def begin(self, split: Split, choice: Choice, *, length: int, stream: bool) -> Watch | None:
        """A request has arrived; None where nobody judges it: no rollout, a pin, a tag."""
        if split.rollout is None or choice.pinned or choice.weight is None:
            return None
        watch = Watch(
            split.rollout,
            self._clock.now().timestamp(),
            self._clock.monotonic(),
            choice.release == split.candidate,
            choice.weight,
            length.bit_length(),
            choice.cluster,
            self._silent_s if stream else self._whole_s,
        )
        self._waiting[watch] = None
        return watch

    def answered(self, watch: Watch) -> None:
        """Its first token came: it is not silent any more."""
        self._waiting.pop(watch, None)

    def drop(self, watch: Watch) -> None:
        """It says nothing about the release: the caller left, or an answer was there already."""
        watch.over = True
        self._waiting.pop(watch, None)

    def end(self, watch: Watch, outcome: Outcome) -> None:
        """What became of it; the second time is nothing."""
        if watch.over:
            return
        self.drop(watch)
        self._note(watch.rollout, outcome)

    def shadow(self, rollout: str, sample: ShadowSample) -> None:
        """A mirrored request ended."""
        if self._room(rollout):
            self._unwritten.setdefault(rollout, _Unwritten()).shadows.append(sample)

    def _note(self, rollout: str, outcome: Outcome) -> None:
        if self._room(rollout):
            self._unwritten.setdefault(rollout, _Unwritten()).outcomes.append(outcome)

    def _room(self, rollout: str) -> bool:
        if self._count >= MOST:
            self._unwritten.setdefault(rollout, _Unwritten()).lost += 1
            self._lost.inc()
            return False
        self._count += 1
        return True

    def give_up_silent(self) -> None:
        """What has been silent for longer than its limit counts as failed: a slow release hides its failures."""
        now = self._clock.monotonic()
        for watch in [each for each in self._waiting if now - each.began > each.limit_s]:
            self.end(watch, watch.outcome(failed=True))

    async def flush(self) -> None:
        """Write down what was noted. Raises DatabaseUnavailable; it is written later then."""
        self.give_up_silent()
        at = self._clock.now()
        unwritten, self._unwritten, count = self._unwritten, {}, self._count
        if unwritten:
            try:
                async with asyncio.timeout(_LIMIT_S), self._database.write() as connection:
                    for rollout, each in unwritten.items():
                        batch = OutcomeBatch(0, self._gateway, at, each.outcomes, each.lost, each.shadows)
                        await self._store.add(connection, rollout, batch)
            except BaseException as error:
                self._again(unwritten)
                if isinstance(error, TimeoutError):
                    raise DatabaseUnavailable("The database did not take outcomes in time.") from None
                raise
            self._count -= count
        self.written_at = at

    def _again(self, unwritten: dict[str, _Unwritten]) -> None:
        later, self._unwritten = self._unwritten, unwritten
        for rollout, each in later.items():
            into = self._unwritten.setdefault(rollout, _Unwritten())
            into.outcomes += each.outcomes
            into.shadows += each.shadows
            into.lost += each.lost

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write until the end, and once more then."""
        with contextlib.suppress(DatabaseUnavailable):
            async with self._database.write() as connection:
                await self._store.forget(connection, self._clock.now() - _FORGET)
        try:
            async with going_on(self._loop, "outcomes"):
                yield
        finally:
            with contextlib.suppress(DatabaseUnavailable):
                await self.flush()

    async def _loop(self) -> None:
        away = False
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                await self.flush()
            except DatabaseUnavailable as error:
                if not away:
                    _log.error("outcomes cannot be written", problem=error.message)
                away = True
            else:
                away = False

"""Moves the rollouts. On the leader, some times a second: look, judge, decide, and carry it out in one transaction.

Everything that a rollout is lies in the database. What runs beside (bringing a release onto nodes, gates, questions)
only answers questions of the moment, and is asked again by the next leader.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from deployment.clock import Clock
from deployment.database import Database
from deployment.errors import Conflict, DatabaseUnavailable, NotFound, RamseyError
from deployment.releases.rollout.activities import Activities
from deployment.releases.rollout.carry import CONTROLLER, Carrier
from deployment.releases.rollout.decide import Decision, End, Enter, Facts, Hold, Wait, apply, decide
from deployment.releases.rollout.freeze import frozen
from deployment.releases.rollout.judging import News, began, judged
from deployment.releases.rollout.leader import Leader
from deployment.releases.rollout.model import Phase, Rollout
from deployment.releases.rollout.store import RolloutStore, Superseded
from deployment.releases.traffic import FeedbackStore, GatewayStore, OutcomeStore, TrafficStore

TICK_S = 0.5
_ELECT_S = 1.0
_BATCHES = 200

_log = structlog.get_logger("rollouts")


class Controller:
    """One for a process; it does something while this process leads."""

    def __init__(
        self,
        database: Database,
        store: RolloutStore,
        traffic: TrafficStore,
        leader: Leader,
        activities: Activities,
        clock: Clock,
        nudge: Callable[[], Awaitable[None]],
    ) -> None:
        self._database, self._store, self._leader = database, store, leader
        self._activities, self._clock, self._nudge = activities, clock, nudge
        self._outcomes, self._feedback, self._gateways = OutcomeStore(), FeedbackStore(), GatewayStore(clock)
        self._carrier = Carrier(store, traffic, clock)
        self._woken = asyncio.Event()
        self.problem: str | None = None
        """Why nothing moves now; for /health."""
        self.on_running: Callable[[list[Rollout]], None] = lambda _rollouts: None
        """Told at each look of what runs; of nothing while another process leads."""
        self.on_end: Callable[[Rollout], None] = lambda _rollout: None
        """Told of a rollout that the controller ended, after it was written down."""

    @property
    def leads(self) -> bool:
        """Whether this process moves the rollouts."""
        return self._leader.fence is not None

    def wake(self) -> None:
        """Look now."""
        self._woken.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Lead, or wait to, until the end."""
        loop = asyncio.create_task(self._loop())
        try:
            yield
        finally:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)
            await self._activities.close()
            await self._leader.resign()

    async def _loop(self) -> None:
        while True:
            self._woken.clear()
            await self._turn()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S if self.leads else _ELECT_S):
                    await self._woken.wait()

    async def _turn(self) -> None:
        try:
            fence = await self._leader.lead()
            if fence is not None:
                await self.tick(fence)
            else:
                await self._activities.close()
                self.on_running([])
            self._note(None)
        except DatabaseUnavailable as error:
            self._note(f"No rollout moves. {error.message}")
        except Superseded as error:
            _log.warning("leads no longer", reason=error.message)
            await self._leader.resign()
        except Exception as error:
            # Whatever it was: the traffic stands as it was written down, and the next look may be better.
            problem = f"No rollout moves. Unexpected {type(error).__name__}: {error}"
            if problem != self.problem:
                _log.exception("a look at the rollouts failed")
            self._note(problem)

    async def tick(self, fence: int) -> None:
        """One look at every rollout that runs. Raises DatabaseUnavailable, Superseded where another one leads."""
        async with self._database.read() as connection:
            running = await self._store.running(connection)
        self._activities.only(running)
        looked: list[Rollout] = []
        for rollout in running:
            try:
                if (found := await self._move(rollout, fence)) is not None:
                    looked.append(found)
            except Superseded:
                raise
            except Conflict as error:  # a person, or a newer leader, was faster
                _log.info("looks again", rollout=rollout, reason=error.message)
            except NotFound as error:
                _log.error("a rollout has no traffic", rollout=rollout, reason=error.message)
        self.on_running([rollout for rollout in looked if not rollout.phase.over])

    async def _move(self, rollout_id: str, fence: int) -> Rollout | None:
        """Look and decide without a lock, then write if nobody wrote meanwhile: a person's word never waits for us."""
        async with self._database.read() as connection:
            before = await self._store.get(connection, rollout_id)
            if before is None or before.phase.over:
                return None
            scores = self._activities.scores(before)
            rollout, facts = await self._look(connection, before, scores)
        decision = decide(rollout, facts, self._clock.now())
        try:
            rollout = await self._write(before, rollout, decision, fence)
        except BaseException:
            self._activities.keep(before, scores)
            raise
        self._activities.follow(rollout)
        if not isinstance(decision, Wait):
            _log.info("rollout", id=rollout.id, phase=rollout.phase.value, weight=rollout.weight, reason=rollout.reason)
            if rollout.phase.over:
                self.on_end(rollout)
            with contextlib.suppress(RamseyError):
                await self._nudge()
        return rollout

    async def _write(self, before: Rollout, rollout: Rollout, decision: Decision, fence: int) -> Rollout:
        """What was decided, and what is new. Raises Conflict where somebody was faster, or leads now."""
        if isinstance(decision, Wait):
            waits = "" if rollout.stop is not None else decision.reason
            if rollout is before and waits == before.waits:
                return rollout
            rollout = replace(rollout, waits=waits)
        async with self._database.write() as connection:
            await self._store.check_fence(connection, fence)
            if isinstance(decision, Wait):
                rollout = await self._store.save(connection, rollout)
            else:
                after = began(before, apply(rollout, decision, self._clock.now()))
                rollout = await self._carrier.change(connection, after, kind_of(decision), CONTROLLER)
            if rollout.cursor != before.cursor:
                await self._outcomes.delete_through(connection, rollout.id, rollout.cursor)
        return rollout

    async def _look(
        self, connection: AsyncConnection, rollout: Rollout, scores: list[tuple[bool, float]]
    ) -> tuple[Rollout, Facts]:
        """What is new of a rollout, and the facts of now."""
        now = self._clock.now()
        lock = await self._store.locked(connection, rollout.model)
        held = f"Locked by {lock.locked_by}: {lock.message}" if lock is not None else None
        facts = replace(self._activities.facts(rollout), frozen=held or frozen(rollout.plan, now))
        if not rollout.phase.judged:
            return rollout, facts
        news = News(
            await self._outcomes.after(connection, rollout.id, rollout.cursor, _BATCHES),
            await self._feedback.after(connection, rollout.id, rollout.votes),
            scores,
            self._activities.guards(rollout, now.timestamp()),
            await self._gateways.alive(connection),
            await self._gateways.now(connection),
        )
        rollout, verdicts = judged(rollout, news, now)
        return rollout, replace(facts, verdicts=verdicts, mirrored=rollout.figures.mirrored)

    def _note(self, problem: str | None) -> None:
        if problem != self.problem and problem is not None:
            _log.error("no rollout moves", reason=problem)
        self.problem = problem


def kind_of(decision: Decision) -> str:
    """What an event of it is called."""
    match decision:
        case Enter(phase=Phase.STEPS):
            return "step"
        case Enter(phase=Phase.BAKE):
            return "promoted"
        case Enter(phase=phase):
            return phase.value
        case Hold():
            return "held"
        case End(phase=phase):
            return phase.value
        case _:
            return "changed"

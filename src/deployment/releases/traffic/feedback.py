"""Callers' votes on answers: once for each, and only on one's own tenant's."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from deployment.access import Principal
from deployment.background import going_on
from deployment.clock import Clock
from deployment.database import Database
from deployment.errors import Conflict, DatabaseUnavailable, NotFound
from deployment.releases.traffic.feedback_store import FeedbackStore, Vote
from deployment.releases.traffic.recent import Answered, RecentAnswers
from deployment.releases.traffic.store import GatewayStore

_POLL_S = 1.0
_LIMIT_S = 5.0
_WAIT = timedelta(seconds=60)
"""A vote that no gateway knows an answer for is forgotten then."""
_MOST_PENDING = 1000
"""Votes of one tenant that wait for their gateway."""


@dataclass(frozen=True, slots=True)
class Given:
    """What became of a vote."""

    status: str
    """`recorded`, or `pending`: another gateway gave the answer, and takes the vote within seconds."""
    release: str | None


WasErased = Callable[[AsyncConnection, str, str, datetime], Awaitable[bool]]
"""Of tenant, subject and time, in the transaction that would write."""


class FeedbackService:
    """A gateway knows the answers that it gave itself. A vote on another one is left in the database, where the
    gateway that answered finds it."""

    def __init__(
        self, database: Database, store: FeedbackStore, gateways: GatewayStore, recent: RecentAnswers, clock: Clock
    ) -> None:
        self._database, self._store, self._gateways = database, store, gateways
        self._recent, self._clock = recent, clock
        self.was_erased: WasErased = _nobody_was
        """Whether a vote of then on a person's answer must not be written any more; who keeps people says it."""

    async def give(
        self, caller: Principal, request_id: str, score: float, comment: str = "", release: str | None = None
    ) -> Given:
        """Take a vote. Raises NotFound for an answer that is not known, Conflict for a second vote or another
        release than the one that answered, DatabaseUnavailable."""
        vote = Vote(caller.tenant, request_id, score, comment, caller.id, self._clock.now(), release)
        answered = self._recent.find(caller.tenant, request_id)
        async with self._database.write() as connection:
            if answered is not None:
                if release not in {None, answered.release}:
                    raise Conflict(f"The request {request_id} was answered by {answered.release}.")
                if await self.was_erased(connection, caller.tenant, answered.subject, vote.given_at):
                    raise _unknown(request_id)
                if not await self._store.add(connection, vote, answered):
                    raise Conflict(f"The request {request_id} has its vote already.")
                return Given("recorded", answered.release)
            if len(await self._gateways.alive(connection)) < 2:
                raise _unknown(request_id)
            if not await self._store.add_pending(connection, vote, _MOST_PENDING):
                raise Conflict(
                    f"The request {request_id} has its vote already, or too many votes wait.", hint="Vote later."
                )
            return Given("pending", None)

    async def take_pending(self) -> None:
        """Take the votes on answers of this gateway, and forget those that nobody knows."""
        async with self._database.read() as connection:
            waiting = await self._store.pending(connection)
        since = self._clock.now() - _WAIT
        for vote in waiting:
            answered = self._recent.find(vote.tenant, vote.request_id)
            if answered is not None or vote.given_at < since:
                await self._settle(vote, answered)

    async def _settle(self, vote: Vote, answered: Answered | None) -> None:
        async with self._database.write() as connection:
            # Clocks of two gateways differ: who was erased just before the vote was, may be, after it.
            given = vote.given_at - _WAIT
            gone = answered is not None and await self.was_erased(connection, vote.tenant, answered.subject, given)
            first = await self._store.drop_pending(connection, vote)
            if first and not gone and answered is not None and vote.release in {None, answered.release}:
                await self._store.add(connection, vote, answered)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look for votes until the end."""
        async with going_on(self._loop, "votes"):
            yield

    async def _loop(self) -> None:
        while True:
            await asyncio.sleep(_POLL_S)
            with suppress(DatabaseUnavailable, TimeoutError):
                async with asyncio.timeout(_LIMIT_S):
                    await self.take_pending()


async def _nobody_was(_connection: AsyncConnection, _tenant: str, _subject: str, _at: datetime) -> bool:
    return False


def _unknown(request_id: str) -> NotFound:
    return NotFound(
        f"No answer with the request id {request_id[:128]!r} is known here.",
        hint="Send the X-Request-Id of an answer that your tenant had lately.",
    )

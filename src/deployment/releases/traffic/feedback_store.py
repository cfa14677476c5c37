"""Callers' votes on answers. The only SQL for their tables."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from deployment.database import Moment, metadata
from deployment.releases.traffic.recent import Answered

_ORDER_LOCK = 0x52414D4645  # "RAMFE": rows appear in the order of their numbers
_feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("request_id", sa.String(128), nullable=False),
    sa.Column("release", sa.String(170), nullable=False),
    sa.Column("rollout", sa.String(200), nullable=True, index=True),
    sa.Column("score", sa.Float, nullable=False),
    sa.Column("comment", sa.Text, nullable=False),
    sa.Column("given_by", sa.String(200), nullable=False),
    sa.Column("given_at", Moment, nullable=False),
    sa.Column("subject_hash", sa.String(64), nullable=True, index=True),
    sa.UniqueConstraint("tenant", "request_id", name="uq_feedback_tenant"),
    sqlite_autoincrement=True,  # a number is never used twice
)
_pending = sa.Table(
    "feedback_pending",
    metadata,
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("request_id", sa.String(128), primary_key=True),
    sa.Column("release", sa.String(170), nullable=True),
    sa.Column("score", sa.Float, nullable=False),
    sa.Column("comment", sa.Text, nullable=False),
    sa.Column("given_by", sa.String(200), nullable=False),
    sa.Column("given_at", Moment, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Vote:
    """What a caller thinks of an answer."""

    tenant: str
    request_id: str
    score: float
    """0 (bad) to 1 (good)."""
    comment: str
    given_by: str
    given_at: datetime
    release: str | None = None
    """The release that the caller believes to have had; None where it did not say."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """A vote, with the release that gave the answer."""

    seq: int
    tenant: str
    request_id: str
    release: str
    rollout: str | None
    """The rollout that the answer was drawn in; None outside one, and for pinned requests."""
    score: float
    comment: str
    given_by: str
    given_at: datetime


_SHOWN = [field.name for field in fields(Feedback)]


class FeedbackStore:
    """Works inside the caller's transaction."""

    async def add(self, connection: AsyncConnection, vote: Vote, answered: Answered) -> bool:
        """Write a vote down; False, and nothing written, when the answer has one already."""
        if connection.dialect.name == "postgresql":
            await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ORDER_LOCK)))
        if await self._there(connection, _feedback, vote):
            return False
        await connection.execute(
            _feedback.insert().values(
                tenant=vote.tenant,
                request_id=vote.request_id,
                release=answered.release,
                rollout=answered.rollout,
                score=vote.score,
                comment=vote.comment,
                given_by=vote.given_by,
                given_at=vote.given_at,
                subject_hash=_subject_hash(vote.tenant, answered.subject),
            )
        )
        return True

    async def add_pending(self, connection: AsyncConnection, vote: Vote, limit: int) -> bool:
        """Keep a vote until the gateway that answered takes it; False when the answer has one, or a tenant too many."""
        if connection.dialect.name == "postgresql":
            await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ORDER_LOCK)))
        if await self._there(connection, _feedback, vote) or await self._there(connection, _pending, vote):
            return False
        count = sa.select(sa.func.count()).select_from(_pending).where(_pending.c.tenant == vote.tenant)
        if (await connection.execute(count)).scalar_one() >= limit:
            return False
        await connection.execute(
            _pending.insert().values(
                tenant=vote.tenant,
                request_id=vote.request_id,
                release=vote.release,
                score=vote.score,
                comment=vote.comment,
                given_by=vote.given_by,
                given_at=vote.given_at,
            )
        )
        return True

    async def pending(self, connection: AsyncConnection, limit: int = 1000) -> list[Vote]:
        """Votes that wait for their gateway, the oldest first."""
        rows = await connection.execute(sa.select(_pending).order_by(_pending.c.given_at).limit(limit))
        return [Vote(**row) for row in rows.mappings()]

    async def drop_pending(self, connection: AsyncConnection, vote: Vote) -> bool:
        """It waits no longer; False where another gateway was first."""
        gone = await connection.execute(
            sa.delete(_pending).where(_pending.c.tenant == vote.tenant, _pending.c.request_id == vote.request_id)
        )
        return bool(gone.rowcount)

    async def after(self, connection: AsyncConnection, rollout: str, seq: int, limit: int = 1000) -> list[Feedback]:
        """The next votes on answers that were drawn in a rollout, after a number, in order."""
        query = sa.select(_feedback).where(_feedback.c.rollout == rollout, _feedback.c.seq > seq)
        rows = await connection.execute(query.order_by(_feedback.c.seq).limit(limit))
        return [Feedback(**{name: row[name] for name in _SHOWN}) for row in rows.mappings()]

    async def erase(self, connection: AsyncConnection, tenant: str, request_ids: Sequence[str], subject: str) -> int:
        """Delete the votes on these answers, on other answers to this person, and those it gave; returns how many."""
        gone = 0
        on_others = _feedback.c.subject_hash == _subject_hash(tenant, subject)
        for table, more in ((_feedback, [on_others]), (_pending, [])):
            theirs = sa.or_(table.c.request_id.in_(list(request_ids)), table.c.given_by == subject, *more)
            gone += (await connection.execute(sa.delete(table).where(table.c.tenant == tenant, theirs))).rowcount
        return gone

    @staticmethod
    async def _there(connection: AsyncConnection, table: sa.Table, vote: Vote) -> bool:
        query = sa.select(table.c.tenant).where(table.c.tenant == vote.tenant, table.c.request_id == vote.request_id)
        return (await connection.execute(query)).first() is not None


def _subject_hash(tenant: str, subject: str) -> str:
    """Finds a person's votes, and says nobody's name. Without a key: keys change, and votes stay."""
    return hashlib.sha256(f"ramsey vote\0{tenant}\0{subject[:256]}".encode()).hexdigest()

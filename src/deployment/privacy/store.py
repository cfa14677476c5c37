"""Wishes of tenants, and sealed conversations: the only SQL for their tables."""

from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from deployment.clock import Clock
from deployment.database import Moment, metadata
from deployment.privacy.model import Sealed, Wish

_wishes = sa.Table(
    "privacy_wishes",
    metadata,
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("keep", sa.Boolean, nullable=False),
    sa.Column("days", sa.Integer, nullable=False),
    sa.Column("redact", sa.Boolean, nullable=False),
    sa.Column("set_at", Moment, nullable=False),
    sa.Column("set_by", sa.String(200), nullable=False),
)
_conversations = sa.Table(
    "conversations",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("subject_tag", sa.String(64), nullable=False, index=True),
    sa.Column("key_id", sa.String(64), nullable=False, index=True),
    sa.Column("at", Moment, nullable=False),
    sa.Column("expires_at", Moment, nullable=False, index=True),
    sa.Column("request_id", sa.String(128), nullable=False),
    sa.Column("model", sa.String(170), nullable=False),
    sa.Column("release", sa.String(170), nullable=False),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
)


_erasures = sa.Table(
    "privacy_erasures",
    metadata,
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("subject_tag", sa.String(64), primary_key=True),
    sa.Column("erased_at", Moment, nullable=False),
)
_ERASURE_LOCK = 0x52414D4552  # "RAMER": none writes of people while one is erased


class PrivacyStore:
    """All of it inside the caller's transaction."""

    async def wishes(self, connection: AsyncConnection) -> list[Wish]:
        """What every tenant asked for."""
        return [Wish(**row) for row in (await connection.execute(sa.select(_wishes))).mappings()]

    async def put_wish(self, connection: AsyncConnection, wish: Wish) -> None:
        """Replace what a tenant asked for."""
        await connection.execute(sa.delete(_wishes).where(_wishes.c.tenant == wish.tenant))
        await connection.execute(_wishes.insert().values(asdict(wish)))

    async def begin_to_write(self, connection: AsyncConnection) -> None:
        """Wait for erasures under way: whom they erase is seen then. Called first, before any other lock is taken."""
        if connection.dialect.name == "postgresql":  # SQLite has one writer at a time
            await connection.execute(sa.select(sa.func.pg_advisory_xact_lock_shared(_ERASURE_LOCK)))

    async def begin_to_erase(self, connection: AsyncConnection) -> None:
        """Wait for all who write of people, and let none begin. Called first, before any other lock is taken."""
        if connection.dialect.name == "postgresql":
            await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ERASURE_LOCK)))

    async def now(self, connection: AsyncConnection, clock: Clock) -> datetime:
        """One time for all gateways: the database's, or that of the machine that its file is on."""
        if connection.dialect.name == "postgresql":
            at: datetime = (await connection.execute(sa.select(sa.func.clock_timestamp()))).scalar_one()
            return at
        return clock.now()

    async def note_erased(self, connection: AsyncConnection, tenant: str, tags: Sequence[str], at: datetime) -> None:
        """What was said before is not to be written any more."""
        theirs = sa.and_(_erasures.c.tenant == tenant, _erasures.c.subject_tag.in_(list(tags)))
        await connection.execute(sa.delete(_erasures).where(theirs))
        rows = [{"tenant": tenant, "subject_tag": tag, "erased_at": at} for tag in tags]
        await connection.execute(_erasures.insert(), rows)

    async def erased(self, connection: AsyncConnection, tags: Collection[str]) -> dict[str, datetime]:
        """Who of these was erased, and when last."""
        query = sa.select(_erasures.c.subject_tag, _erasures.c.erased_at).where(_erasures.c.subject_tag.in_(list(tags)))
        return {row.subject_tag: row.erased_at for row in await connection.execute(query)}

    async def forget_erasures(self, connection: AsyncConnection, before: datetime) -> None:
        """Of so long ago that nobody can still be about to write."""
        await connection.execute(sa.delete(_erasures).where(_erasures.c.erased_at < before))

    async def add(self, connection: AsyncConnection, rows: Sequence[Sealed]) -> None:
        """Keep conversations."""
        await connection.execute(_conversations.insert(), [asdict(row) for row in rows])

    async def of_subject(
        self, connection: AsyncConnection, tenant: str, tags: Sequence[str], after: tuple[datetime, str] | None, n: int
    ) -> list[Sealed]:
        """A subject's next conversations, the oldest first."""
        query = sa.select(_conversations).where(_of(tenant, tags))
        if after is not None:
            at, last = after
            newer = sa.or_(_conversations.c.at > at, sa.and_(_conversations.c.at == at, _conversations.c.id > last))
            query = query.where(newer)
        rows = await connection.execute(query.order_by(_conversations.c.at, _conversations.c.id).limit(n))
        return [Sealed(**row) for row in rows.mappings()]

    async def erase(self, connection: AsyncConnection, tenant: str, tags: Sequence[str]) -> list[str]:
        """Delete all of a subject's; returns their request ids."""
        theirs = _of(tenant, tags)
        found = await connection.execute(sa.select(_conversations.c.request_id).where(theirs))
        request_ids = list(found.scalars())
        await connection.execute(sa.delete(_conversations).where(theirs))
        return request_ids

    async def expire(self, connection: AsyncConnection, now: datetime) -> int:
        """Delete what was kept long enough; returns how many."""
        return (await connection.execute(sa.delete(_conversations).where(_conversations.c.expires_at <= now))).rowcount

    async def of_other_keys(self, connection: AsyncConnection, key_id: str, n: int) -> list[Sealed]:
        """Conversations that another key sealed."""
        query = sa.select(_conversations).where(_conversations.c.key_id != key_id).limit(n)
        return [Sealed(**row) for row in (await connection.execute(query)).mappings()]

    async def replace(self, connection: AsyncConnection, row: Sealed) -> None:
        """Put a conversation that was sealed anew in place of the old one, unless that is gone."""
        await connection.execute(sa.update(_conversations).where(_conversations.c.id == row.id).values(asdict(row)))


def _of(tenant: str, tags: Sequence[str]) -> sa.ColumnElement[bool]:
    return sa.and_(_conversations.c.tenant == tenant, _conversations.c.subject_tag.in_(list(tags)))

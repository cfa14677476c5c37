"""Outcomes on their way from the gateways to the judge. The only SQL for their table."""

from datetime import datetime
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from deployment.database import Moment, metadata
from deployment.releases.traffic.outcome import Outcome, OutcomeBatch, ShadowSample

_ORDER_LOCK = 0x52414D4F55  # "RAMOU": rows appear in the order of their numbers
_outcomes = sa.Table(
    "rollout_outcomes",
    metadata,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("rollout", sa.String(200), nullable=False, index=True),
    sa.Column("gateway", sa.String(64), nullable=False),
    sa.Column("flushed_at", Moment, nullable=False),
    sa.Column("batch", sa.Text, nullable=False),
    sqlite_autoincrement=True,  # a number is never used twice, also when every row was deleted
)


class OutcomeStore:
    """Works inside the caller's transaction: the judge's state and how far it read are kept as one."""

    async def add(self, connection: AsyncConnection, rollout: str, batch: OutcomeBatch) -> None:
        """Write a batch down; its `seq` is given here."""
        if connection.dialect.name == "postgresql":
            await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ORDER_LOCK)))
        rows = {"outcomes": [list(each) for each in batch.outcomes], "shadows": [list(each) for each in batch.shadows]}
        await connection.execute(
            _outcomes.insert().values(
                rollout=rollout,
                gateway=batch.gateway,
                flushed_at=batch.flushed_at,
                batch=orjson.dumps(rows | {"lost": batch.lost}).decode(),
            )
        )

    async def after(self, connection: AsyncConnection, rollout: str, seq: int, limit: int = 100) -> list[OutcomeBatch]:
        """The next batches of a rollout after a number, in order."""
        query = sa.select(_outcomes).where(_outcomes.c.rollout == rollout, _outcomes.c.seq > seq)
        rows = await connection.execute(query.order_by(_outcomes.c.seq).limit(limit))
        return [_batch(row) for row in rows]

    async def delete_through(self, connection: AsyncConnection, rollout: str, seq: int) -> None:
        """Forget a rollout's batches up to a number."""
        await connection.execute(sa.delete(_outcomes).where(_outcomes.c.rollout == rollout, _outcomes.c.seq <= seq))

    async def forget(self, connection: AsyncConnection, before: datetime) -> None:
        """Batches that nobody reads any more."""
        await connection.execute(sa.delete(_outcomes).where(_outcomes.c.flushed_at < before))


def _batch(row: Any) -> OutcomeBatch:
    document = orjson.loads(row.batch)  # rows may be longer than we know: a newer version wrote them
    return OutcomeBatch(
        row.seq,
        row.gateway,
        row.flushed_at,
        [Outcome(*row[: len(Outcome._fields)]) for row in document["outcomes"]],
        int(document.get("lost", 0)),
        [ShadowSample(*row[: len(ShadowSample._fields)]) for row in document.get("shadows", ())],
    )

"""What is used of budgets, in the database: a day's budget outlives a restart."""

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from deployment.access.limits.memory import Spending
from deployment.database import Database, Moment, metadata

_spending = sa.Table(
    "budget_spending",
    metadata,
    sa.Column("counter", sa.String(320), primary_key=True),
    sa.Column("tokens", sa.BigInteger, nullable=False),
    sa.Column("ends_at", Moment, nullable=False),
)


class SpendingStore:
    """The only SQL for its table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, now: datetime) -> list[Spending]:
        """Budgets whose period goes on."""
        async with self._database.read() as connection:
            rows = await connection.execute(sa.select(_spending).where(_spending.c.ends_at > now))
            return [Spending(row.counter, row.tokens, row.ends_at) for row in rows]

    async def save(self, spendings: Sequence[Spending], now: datetime) -> None:
        """Write down how they stand, and forget those whose period is over."""
        if not spendings:
            return
        rows = [
            {"counter": spending.counter, "tokens": spending.tokens, "ends_at": spending.ends_at}
            for spending in spendings
        ]
        async with self._database.write() as connection:
            counters = [row["counter"] for row in rows]
            await connection.execute(
                sa.delete(_spending).where(sa.or_(_spending.c.ends_at <= now, _spending.c.counter.in_(counters)))
            )
            await connection.execute(_spending.insert(), rows)

"""What is used of budgets, in the database: a day's budget outlives a restart."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from deployment.access.limits.memory import Spending
from deployment.database import Database, Moment, metadata

_AT_ONCE = 500
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

    async def spent(self, counters: Sequence[str]) -> list[Spending]:
        """What all gateways together have spent of these, where something is written."""
        async with self._database.read() as connection:
            parts = [counters[start : start + _AT_ONCE] for start in range(0, len(counters), _AT_ONCE)]
            asked = [sa.select(_spending).where(_spending.c.counter.in_(part)) for part in parts]
            found = [row for query in asked for row in await connection.execute(query)]
        return [Spending(row.counter, row.tokens, row.ends_at) for row in found]

    async def add(self, spendings: Sequence[Spending], now: datetime) -> None:
        """Add to what is written down, for other gateways write there too; forget those whose period is over."""
        if not spendings:
            return
        rows = [asdict(spending) for spending in sorted(spendings, key=lambda one: one.counter)]
        async with self._database.write() as connection:
            await connection.execute(sa.delete(_spending).where(_spending.c.ends_at <= now))
            dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
            insert = dialect.insert(_spending)
            more = {"tokens": _spending.c.tokens + insert.excluded.tokens}
            await connection.execute(insert.on_conflict_do_update(index_elements=["counter"], set_=more), rows)

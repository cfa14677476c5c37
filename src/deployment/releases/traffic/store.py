"""The splits as they are kept, and the gateways that have them. The only SQL for their tables."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from deployment.clock import Clock
from deployment.database import Moment, metadata
from deployment.errors import Conflict
from deployment.releases.traffic.documents import from_document, to_document
from deployment.releases.traffic.model import Split, check

ALIVE = timedelta(seconds=5)
"""A gateway that was not seen for so long is gone."""
_FORGET = timedelta(hours=1)

_traffic = sa.Table(
    "traffic",
    metadata,
    sa.Column("model", sa.String(80), primary_key=True),
    sa.Column("split", sa.Text, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("set_by", sa.String(200), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("set_at", Moment, nullable=False),
)
_version = sa.Table(
    "traffic_version",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("version", sa.BigInteger, nullable=False),
)
_gateways = sa.Table(
    "gateways",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("seen_at", Moment, nullable=False),
    sa.Column("traffic_version", sa.BigInteger, nullable=False),
    sa.Column("outcomes_at", Moment, nullable=True),
)


@dataclass(frozen=True, slots=True)
class GatewayRow:
    """A gateway as the others know it."""

    id: str
    seen_at: datetime
    traffic_version: int
    outcomes_at: datetime | None
    """Every outcome before then is written down; None before the first time."""


class TrafficStore:
    """Works inside the caller's transaction, so that a change of traffic and its reason are one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def put(self, connection: AsyncConnection, split: Split, *, expected_version: int | None) -> Split:
        """Write a split down, and return it with its version and time.

        `expected_version` is that of the split it replaces (0: there is none), None where any will do.
        Raises Conflict when the version is another, InvalidRequest for a split that makes no sense.
        """
        check(split)
        version = await self._raise(connection)
        await self._expect(connection, split.model, expected_version)
        new = replace(split, version=version, set_at=self._clock.now())
        await connection.execute(sa.delete(_traffic).where(_traffic.c.model == split.model))
        await connection.execute(
            _traffic.insert().values(
                model=new.model,
                split=orjson.dumps(to_document(new)).decode(),
                version=version,
                set_by=new.set_by,
                reason=new.reason,
                set_at=new.set_at,
            )
        )
        return new

    async def delete(self, connection: AsyncConnection, model: str) -> None:
        """Serve the model no more."""
        await self._raise(connection)
        await connection.execute(sa.delete(_traffic).where(_traffic.c.model == model))

    async def get(self, connection: AsyncConnection, model: str) -> Split | None:
        """One model's split."""
        row = (await connection.execute(sa.select(_traffic).where(_traffic.c.model == model))).one_or_none()
        return _split(row) if row is not None else None

    async def all(self, connection: AsyncConnection) -> list[Split]:
        """Every model's."""
        rows = await connection.execute(sa.select(_traffic).order_by(_traffic.c.model))
        return [_split(row) for row in rows]

    async def version(self, connection: AsyncConnection) -> int:
        """Of the whole table: that of the newest change."""
        found = (await connection.execute(sa.select(_version.c.version))).scalar_one_or_none()
        return int(found or 0)

    async def _raise(self, connection: AsyncConnection) -> int:
        """The next version. Its row stays locked to the end, so that versions appear in order."""
        raised = sa.update(_version).values(version=_version.c.version + 1).returning(_version.c.version)
        return int((await connection.execute(raised)).scalar_one())

    async def _expect(self, connection: AsyncConnection, model: str, expected: int | None) -> None:
        if expected is None:
            return
        query = sa.select(_traffic.c.version, _traffic.c.set_by).where(_traffic.c.model == model)
        row = (await connection.execute(query)).one_or_none()
        there = row.version if row is not None else 0
        if there != expected:
            who = f" by {row.set_by}" if row is not None else ""
            raise Conflict(
                f"The traffic of {model} was changed meanwhile{who}: it has version {there}, not {expected}.",
                hint="Look at it again, then decide anew.",
            )


class GatewayStore:
    """Which gateways there are, and which table each of them has. Times are the database's where it has a clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def beat(
        self, connection: AsyncConnection, gateway: str, traffic_version: int, outcomes_at: datetime | None
    ) -> None:
        """This gateway lives and has this table. Who was not seen for an hour is forgotten.

        `outcomes_at` is by this process's clock, and is kept by the database's.
        """
        now = await self.now(connection)
        written = now - (self._clock.now() - outcomes_at) if outcomes_at is not None else None
        values: dict[str, Any] = {"seen_at": now, "traffic_version": traffic_version, "outcomes_at": written}
        there = await connection.execute(sa.update(_gateways).where(_gateways.c.id == gateway).values(**values))
        if not there.rowcount:
            await connection.execute(sa.delete(_gateways).where(_gateways.c.seen_at < now - _FORGET))
            await connection.execute(_gateways.insert().values(id=gateway, **values))

    async def leave(self, connection: AsyncConnection, gateway: str) -> None:
        """This gateway ends."""
        await connection.execute(sa.delete(_gateways).where(_gateways.c.id == gateway))

    async def alive(self, connection: AsyncConnection) -> list[GatewayRow]:
        """The gateways that were seen lately."""
        since = await self.now(connection) - ALIVE
        rows = await connection.execute(sa.select(_gateways).where(_gateways.c.seen_at >= since))
        return [GatewayRow(**row) for row in rows.mappings()]

    async def now(self, connection: AsyncConnection) -> datetime:
        """PostgreSQL's own clock, so that machines whose clocks differ agree; else this machine's."""
        if connection.dialect.name != "postgresql":
            return self._clock.now()
        now: datetime = (await connection.execute(sa.select(sa.func.clock_timestamp()))).scalar_one()
        return now


def _split(row: Any) -> Split:
    split = from_document(row.model, orjson.loads(row.split))
    return replace(split, version=row.version, set_by=row.set_by, reason=row.reason, set_at=row.set_at)

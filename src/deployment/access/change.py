"""Changes of access: each raises one version, which other processes watch, and stands in the record."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from deployment.access.audit import Act, append
from deployment.database import metadata

_versions = sa.Table(
    "access_version",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("version", sa.BigInteger, nullable=False),
)


async def version_now(connection: AsyncConnection) -> int:
    """The number of the last change."""
    return int((await connection.execute(sa.select(_versions.c.version))).scalar_one())


async def raise_version(connection: AsyncConnection) -> int:
    """Begin a change: its number. Called first, before any other lock is taken.

    The row of the number stays locked to the end, so that numbers and entries appear in order.
    """
    raised = sa.update(_versions).values(version=_versions.c.version + 1).returning(_versions.c.version)
    return int((await connection.execute(raised)).scalar_one())


async def begin_change(connection: AsyncConnection, act: Act) -> int:
    """Begin a change that somebody made: its number, and its entry in the record. Called first, as `raise_version`."""
    version = await raise_version(connection)
    await append(connection, act)
    return version


async def lock_changes(connection: AsyncConnection) -> None:
    """Wait for the changes under way, and let none begin before this transaction ends."""
    await connection.execute(sa.select(_versions.c.version).with_for_update())


async def record_acts(connection: AsyncConnection, acts: Sequence[Act]) -> None:
    """Entries in the record, in the transaction of another room that does what they say. Take its own locks first."""
    await lock_changes(connection)
    for act in acts:
        await append(connection, act)

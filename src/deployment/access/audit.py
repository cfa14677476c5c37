"""The record of administrative acts and refused access: append-only, each entry sealed with the hash of the last.

Who changes or removes an entry breaks the chain from there on. What is cut off at the end can only be noticed
by who kept the last hash, which `verify` tells.
"""

import asyncio
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from deployment.access.model import Principal
from deployment.database import Database, metadata

_PAGE = 500
START = "0" * 64
"""What the first entry follows."""
_audit = sa.Table(
    "audit_log",
    metadata,
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("actor_name", sa.String(64), nullable=False),
    sa.Column("tenant", sa.String(64), nullable=False, index=True),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("subject", sa.String(200), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("source", sa.String(64), nullable=False),
    sa.Column("request_id", sa.String(128), nullable=False),
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)


@dataclass(frozen=True, slots=True)
class Act:
    """What somebody does, to be recorded in the transaction that does it."""

    at: datetime
    actor: Principal
    action: str
    """Thing and verb, for instance `key.create`."""
    subject: str
    detail: dict[str, Any]
    """`before` and `after`, as far as they matter."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What was done, as it is kept. `detail` is JSON and `at` ISO 8601, in the very text that is sealed."""

    seq: int
    at: str
    actor: str
    actor_name: str
    tenant: str
    """The actor's."""
    action: str
    subject: str
    detail: str
    source: str
    """The address that the request came from; empty for the command line."""
    request_id: str
    previous: str
    hash: str


@dataclass(frozen=True, slots=True)
class Selection:
    """Which entries are wanted. Without `after` the newest come first, with it the oldest."""

    tenant: str | None = None
    """None for all tenants."""
    before: int | None = None
    after: int | None = None
    since: datetime | None = None
    """From the first entry on that is not older, without a gap: a chain can be checked."""
    until: datetime | None = None
    """Up to the first entry that is not older, without it."""


@dataclass(frozen=True, slots=True)
class ChainReport:
    """What a look at the chain found."""

    entries: int
    """How many are whole, from the first on."""
    broken_at: int | None
    """Number of the first entry that does not fit; None when all do."""
    last_hash: str
    of: int
    """The number of the newest entry."""


def seal(entry: AuditEntry) -> str:
    """SHA-256 of the entry without its own hash, in hex."""
    fields = asdict(entry)
    del fields["hash"]
    return hashlib.sha256(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)).hexdigest()


def first_break(entries: Iterable[AuditEntry], seq: int, previous: str) -> int | None:
    """Number of the first entry that does not follow the one before it; `seq` and `previous` are that one's."""
    for entry in entries:
        seq += 1
        if entry.seq != seq or entry.previous != previous or entry.hash != seal(entry):
            return seq
        previous = entry.hash
    return None


async def append(connection: AsyncConnection, act: Act) -> None:
    """Add an entry. The caller's transaction already holds the lock that changes of access queue for."""
    last = (
        await connection.execute(sa.select(_audit.c.seq, _audit.c.hash).order_by(_audit.c.seq.desc()).limit(1))
    ).one_or_none()
    entry = AuditEntry(
        seq=last.seq + 1 if last is not None else 1,
        at=act.at.astimezone(UTC).isoformat(),
        actor=act.actor.id,
        actor_name=act.actor.name,
        tenant=act.actor.tenant,
        action=act.action,
        subject=act.subject,
        detail=orjson.dumps(act.detail, option=orjson.OPT_SORT_KEYS).decode(),
        source=act.actor.source,
        request_id=act.actor.request_id,
        previous=last.hash if last is not None else START,
        hash="",
    )
    await connection.execute(_audit.insert().values(asdict(replace(entry, hash=seal(entry)))))


class AuditStore:
    """Reads the record."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def entries(self, wanted: Selection, limit: int) -> list[AuditEntry]:
        """The next of them."""
        query = sa.select(_audit).where(*self._conditions(wanted)).limit(limit)
        query = query.order_by(_audit.c.seq.desc() if wanted.after is None else _audit.c.seq)
        async with self._database.read() as connection:
            return [AuditEntry(**row) for row in (await connection.execute(query)).mappings()]

    async def verify(self, after: int = 0, limit: int | None = None) -> ChainReport:
        """Look at the entries after one, or at so many of them; from the first on by default."""
        last = after + limit if limit is not None else None
        async with self._database.read() as connection:
            of = (await connection.execute(sa.select(sa.func.max(_audit.c.seq)))).scalar() or 0
            previous = await self._hash_of(connection, after)
            if previous is None:
                return ChainReport(after - 1, after, "", of)
            seq = after
            while last is None or seq < last:
                size = _PAGE if last is None else min(_PAGE, last - seq)
                query = sa.select(_audit).where(_audit.c.seq > seq).order_by(_audit.c.seq).limit(size)
                entries = [AuditEntry(**row) for row in (await connection.execute(query)).mappings()]
                broken_at = await asyncio.to_thread(first_break, entries, seq, previous)
                if broken_at is not None:
                    return ChainReport(broken_at - 1, broken_at, previous, of)
                if not entries:
                    break
                seq, previous = entries[-1].seq, entries[-1].hash
        return ChainReport(seq, None, previous, of)

    async def _hash_of(self, connection: AsyncConnection, seq: int) -> str | None:
        if seq == 0:
            return START
        return (await connection.execute(sa.select(_audit.c.hash).where(_audit.c.seq == seq))).scalar()

    def _conditions(self, wanted: Selection) -> Iterator[sa.ColumnElement[bool]]:
        if wanted.tenant is not None:
            yield _audit.c.tenant == wanted.tenant
        if wanted.before is not None:
            yield _audit.c.seq < wanted.before
        if wanted.after is not None:
            yield _audit.c.seq > wanted.after
        if wanted.since is not None:
            yield _audit.c.seq >= self._first_at(wanted.since)
        if wanted.until is not None:
            first = self._first_at(wanted.until)
            yield sa.or_(first.is_(None), _audit.c.seq < first)

    def _first_at(self, moment: datetime) -> sa.ScalarSelect[Any]:
        """Number of the first entry that is not older. Their times are texts, all in UTC, which compare as they are."""
        at: sa.ColumnElement[str] = _audit.c.at if self._database.is_sqlite else sa.collate(_audit.c.at, "C")
        return sa.select(sa.func.min(_audit.c.seq)).where(at >= moment.astimezone(UTC).isoformat()).scalar_subquery()

"""The record of administrative acts and refused access: append-only, each entry sealed with the hash of the last.

Who changes or removes an entry breaks the chain from there on. What is cut off at the end can only be noticed
by who kept the last hash, which `verify` tells.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from deployment.access.model import Principal
from deployment.database import Database, metadata

_PAGE = 1000
_START = "0" * 64
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
class ChainReport:
    """What a look at the whole chain found."""

    entries: int
    broken_at: int | None
    """Number of the first entry that does not fit; None when all do."""
    last_hash: str


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
        at=act.at.isoformat(),
        actor=act.actor.id,
        actor_name=act.actor.name,
        tenant=act.actor.tenant,
        action=act.action,
        subject=act.subject,
        detail=orjson.dumps(act.detail, option=orjson.OPT_SORT_KEYS).decode(),
        source=act.actor.source,
        request_id=act.actor.request_id,
        previous=last.hash if last is not None else _START,
        hash="",
    )
    await connection.execute(_audit.insert().values(asdict(replace(entry, hash=seal(entry)))))


class AuditStore:
    """Reads the record."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def entries(self, tenant: str | None, before: int | None, limit: int) -> list[AuditEntry]:
        """The newest first, older than `before`; `tenant` None for all tenants."""
        query = sa.select(_audit).order_by(_audit.c.seq.desc()).limit(limit)
        if tenant is not None:
            query = query.where(_audit.c.tenant == tenant)
        if before is not None:
            query = query.where(_audit.c.seq < before)
        async with self._database.read() as connection:
            return [AuditEntry(**row) for row in (await connection.execute(query)).mappings()]

    async def verify(self) -> ChainReport:
        """Look at every entry from the first on."""
        seq, previous = 0, _START
        query = sa.select(_audit).order_by(_audit.c.seq).limit(_PAGE)
        async with self._database.read() as connection:
            while True:
                rows = (await connection.execute(query.where(_audit.c.seq > seq))).mappings().all()
                entries = [AuditEntry(**row) for row in rows]
                broken_at = first_break(entries, seq, previous)
                if broken_at is not None or not entries:
                    return ChainReport(seq, broken_at, previous)
                seq, previous = entries[-1].seq, entries[-1].hash

"""Sessions in the database."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from cryptography.fernet import Fernet
from sqlalchemy.ext.asyncio import AsyncConnection

from deployment.access.audit import Act
from deployment.access.change import begin_change, lock_changes, raise_version
from deployment.access.model import SessionRecord
from deployment.database import Database, Moment, metadata

MOST_OF_ONE = 20
"""Sessions of one person; the oldest end where there would be more."""
_KEPT_AFTER = timedelta(hours=1)
"""How long an ended session stays, so that every gateway hears of its end."""
_sessions = sa.Table(
    "browser_sessions",
    metadata,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("principal_id", sa.String(64), nullable=False, index=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("shown_name", sa.String(64), nullable=False),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("roles", sa.JSON, nullable=False),
    sa.Column("scopes", sa.JSON, nullable=False),
    sa.Column("issuer", sa.String(512), nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("seen_at", Moment, nullable=False),
    sa.Column("expires_at", Moment, nullable=False, index=True),
    sa.Column("ended_at", Moment),
    sa.Column("id_token", sa.Text),
    sa.Column("version", sa.BigInteger, nullable=False, index=True),
)
_sign_in_key = sa.Table(
    "sign_in_key",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("key", sa.String(64), nullable=False),
)
_COLUMNS = [column for column in _sessions.c if column.name not in {"id_token", "version"}]


class SessionStore:
    """The only SQL for its tables."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def sealing_key(self) -> str:
        """The key that seals what browsers keep while they sign in: one for all gateways, made by the first."""
        query = sa.select(_sign_in_key.c.key)
        async with self._database.read() as connection:
            if (key := (await connection.execute(query)).scalar()) is not None:
                return str(key)
        async with self._database.write() as connection:
            await lock_changes(connection)
            key = (await connection.execute(query)).scalar()
            if key is None:
                key = Fernet.generate_key().decode()
                await connection.execute(_sign_in_key.insert().values(id=1, key=key))
            return str(key)

    async def begin(self, act: Act, session: SessionRecord, id_token: str | None, instead_of: str | None) -> None:
        """Keep a new session. The one that the same browser had before ends, and so do one person's oldest."""
        newest = (
            sa.select(_sessions.c.sha256)
            .where(_sessions.c.principal_id == session.principal_id, _sessions.c.ended_at.is_(None))
            .order_by(_sessions.c.created_at.desc(), _sessions.c.sha256)
            .limit(MOST_OF_ONE - 1)
        )
        too_many = sa.and_(_sessions.c.principal_id == session.principal_id, _sessions.c.sha256.not_in(newest))
        over = sa.or_(_sessions.c.ended_at < act.at - _KEPT_AFTER, _sessions.c.expires_at < act.at - _KEPT_AFTER)
        async with self._database.write() as connection:
            version = await begin_change(connection, act)
            await connection.execute(sa.delete(_sessions).where(over))
            await _end(connection, sa.or_(too_many, _sessions.c.sha256 == instead_of), act.at, version)
            row = {**asdict(session), "id_token": id_token, "version": version}
            await connection.execute(_sessions.insert().values(row))

    async def end(self, act: Act, sha256: str) -> str | None:
        """End a session; the first time stays. Returns the provider's token of who signed in, if it is kept."""
        async with self._database.write() as connection:
            version = await begin_change(connection, act)
            query = sa.select(_sessions.c.id_token).where(_sessions.c.sha256 == sha256)
            token = (await connection.execute(query)).scalar()
            await _end(connection, _sessions.c.sha256 == sha256, act.at, version)
            return token

    async def session(self, digits: str) -> SessionRecord | None:
        """The session whose hash begins with these 16 digits, ended or not."""
        query = sa.select(*_COLUMNS).where(sa.func.substr(_sessions.c.sha256, 1, 16) == digits)
        async with self._database.read() as connection:
            row = (await connection.execute(query.limit(1))).mappings().one_or_none()
            return _record(row) if row is not None else None

    async def going_on(self, tenant: str | None, now: datetime, after: str, limit: int) -> list[SessionRecord]:
        """A page of the sessions that have not ended, by the first 16 digits of their hashes; None for all tenants."""
        shown = sa.func.substr(_sessions.c.sha256, 1, 16)
        query = sa.select(*_COLUMNS).where(_sessions.c.ended_at.is_(None), _sessions.c.expires_at > now, shown > after)
        if tenant is not None:
            query = query.where(_sessions.c.tenant == tenant)
        async with self._database.read() as connection:
            rows = (await connection.execute(query.order_by(shown).limit(limit))).mappings()
            return [_record(row) for row in rows]

    async def mark_seen(self, seen: Mapping[str, datetime]) -> None:
        """Note when sessions were last used; a later note of another process stays."""
        if not seen:
            return
        async with self._database.write() as connection:
            version = await raise_version(connection)
            statement = (
                sa.update(_sessions)
                .where(_sessions.c.sha256 == sa.bindparam("id"), _sessions.c.seen_at < sa.bindparam("at"))
                .values(seen_at=sa.bindparam("at"), version=version)
            )
            await connection.execute(statement, [{"id": sha256, "at": at} for sha256, at in sorted(seen.items())])


async def changed_sessions(connection: AsyncConnection, floor: int) -> tuple[SessionRecord, ...]:
    """Those that changed after a version; of all that there are (-1), those that have not ended."""
    query = sa.select(*_COLUMNS).where(_sessions.c.version > floor)
    if floor < 0:
        query = query.where(_sessions.c.ended_at.is_(None))
    rows = (await connection.execute(query)).mappings()
    return tuple(_record(row) for row in rows)


def _record(row: Mapping[Any, Any]) -> SessionRecord:
    return SessionRecord(**{**row, "roles": tuple(row["roles"]), "scopes": tuple(row["scopes"])})


async def _end(connection: AsyncConnection, which: sa.ColumnElement[Any], at: datetime, version: int) -> None:
    ended = {"ended_at": at, "id_token": None, "version": version}
    await connection.execute(sa.update(_sessions).where(which, _sessions.c.ended_at.is_(None)).values(ended))

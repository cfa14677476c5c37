"""Keys, tenants and roles in the database. Each change raises one version, which other processes watch."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from deployment.access.audit import Act
from deployment.access.change import begin_change, record_acts, version_now
from deployment.access.model import Changes, KeyRecord, Role, StoredLimits, Tenant
from deployment.access.permissions import Permission
from deployment.access.sessions.store import changed_sessions
from deployment.database import Database, Moment, metadata
from deployment.errors import NotFound
from deployment.settings import LimitSet

_tenants = sa.Table(
    "tenants",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("disabled_at", Moment),
)
_roles = sa.Table(
    "roles",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("permissions", sa.JSON, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
)
_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("public_id", sa.String(16), primary_key=True),
    sa.Column("sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("tenant", sa.String(64), sa.ForeignKey("tenants.id"), nullable=False, index=True),
    sa.Column("roles", sa.JSON, nullable=False),
    sa.Column("scopes", sa.JSON, nullable=False),
    sa.Column("models", sa.JSON, nullable=False),
    sa.Column("networks", sa.JSON, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("created_by", sa.String(200), nullable=False),
    sa.Column("expires_at", Moment),
    sa.Column("revoked_at", Moment),
    sa.Column("replaced_by", sa.String(16)),
    sa.Column("last_used_at", Moment),
    sa.Column("version", sa.BigInteger, nullable=False, index=True),
)
_limits = sa.Table(
    "access_limits",
    metadata,
    sa.Column("scope", sa.String(16), primary_key=True),
    sa.Column("subject", sa.String(128), primary_key=True),
    sa.Column("limits", sa.JSON, nullable=False),
)
_PAGE = 2000
_KEY_COLUMNS = [column for column in _keys.c if column.name != "version"]


class _NothingToChange(Exception):
    """Undoes a transaction, its entry in the record too."""


class AccessStore:
    """The only SQL for its tables."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def changes(self, since: int) -> Changes | None:
        """What changed after version `since` (-1 for everything); None when nothing did."""
        async with self._database.read() as connection:
            version = await version_now(connection)
            if version == since:
                return None
            # A counter that went back is a database put back from a backup: all of it is news.
            floor = since if version > since else -1
            return Changes(
                version=version,
                keys=await self._changed_keys(connection, floor),
                sessions=await changed_sessions(connection, floor),
                tenants=await self._all_tenants(connection),
                roles=await self._all_roles(connection),
                limits=tuple(await self._stored_limits(connection, sa.select(_limits))),
            )

    async def add_key(self, act: Act, key: KeyRecord) -> None:
        """Keep a new key."""
        async with self._database.write() as connection:
            await self._insert(connection, key, await begin_change(connection, act))

    async def replace_key(self, act: Act, old: KeyRecord, new: KeyRecord) -> bool:
        """Keep a key's successor and the old one's last day, both or neither.

        False, and nothing kept, when the old one was replaced or revoked in the meantime.
        """
        untouched = sa.and_(
            _keys.c.public_id == old.public_id, _keys.c.replaced_by.is_(None), _keys.c.revoked_at.is_(None)
        )
        with suppress(_NothingToChange):
            async with self._database.write() as connection:
                version = await begin_change(connection, act)
                values = {"expires_at": old.expires_at, "replaced_by": new.public_id, "version": version}
                if not (await connection.execute(sa.update(_keys).where(untouched).values(values))).rowcount:
                    raise _NothingToChange
                await self._insert(connection, new, version)
            return True
        return False

    async def revoke_key(self, act: Act, public_id: str) -> None:
        """Mark a key as revoked; the first time stays."""
        async with self._database.write() as connection:
            version = await begin_change(connection, act)
            await connection.execute(
                sa.update(_keys)
                .where(_keys.c.public_id == public_id, _keys.c.revoked_at.is_(None))
                .values(revoked_at=act.at, version=version)
            )

    async def record(self, acts: Sequence[Act]) -> None:
        """Entries in the record of what changed nothing here."""
        async with self._database.write() as connection:
            await record_acts(connection, acts)

    async def has_usable_key(self, now: datetime) -> bool:
        """Whether there is a key that is neither revoked nor expired."""
        usable = sa.and_(_keys.c.revoked_at.is_(None), sa.or_(_keys.c.expires_at.is_(None), _keys.c.expires_at > now))
        async with self._database.read() as connection:
            return (await connection.execute(sa.select(_keys.c.public_id).where(usable).limit(1))).first() is not None

    async def key(self, public_id: str) -> KeyRecord | None:
        """One key."""
        async with self._database.read() as connection:
            rows = await connection.execute(sa.select(*_KEY_COLUMNS).where(_keys.c.public_id == public_id))
            row = rows.mappings().one_or_none()
            return _key(row) if row is not None else None

    async def keys(self, tenant: str | None, after: str, limit: int) -> list[KeyRecord]:
        """A page of keys in the order of their public ids; `tenant` None for all tenants."""
        query = sa.select(*_KEY_COLUMNS).where(_keys.c.public_id > after)
        if tenant is not None:
            query = query.where(_keys.c.tenant == tenant)
        async with self._database.read() as connection:
            rows = await connection.execute(query.order_by(_keys.c.public_id).limit(limit))
            return [_key(row) for row in rows.mappings()]

    async def mark_used(self, used: Mapping[str, datetime]) -> None:
        """Note when keys were last used; a later note of another process stays."""
        if not used:
            return
        statement = (
            sa.update(_keys)
            .where(
                _keys.c.public_id == sa.bindparam("id"),
                sa.or_(_keys.c.last_used_at.is_(None), _keys.c.last_used_at < sa.bindparam("at")),
            )
            .values(last_used_at=sa.bindparam("at"))
        )
        async with self._database.write() as connection:
            # Sorted, so that two processes take the rows' locks in one order.
            await connection.execute(statement, [{"id": key, "at": at} for key, at in sorted(used.items())])

    async def tenants(self) -> list[Tenant]:
        """All of them."""
        async with self._database.read() as connection:
            return list(await self._all_tenants(connection))

    async def add_tenant(self, act: Act, tenant: Tenant) -> bool:
        """Keep a new tenant; False when there is one of that id."""
        with suppress(_NothingToChange):
            async with self._database.write() as connection:
                await begin_change(connection, act)
                if (await connection.execute(sa.select(_tenants.c.id).where(_tenants.c.id == tenant.id))).first():
                    raise _NothingToChange
                await connection.execute(_tenants.insert().values(asdict(tenant)))
            return True
        return False

    async def set_tenant_disabled(self, act: Act, tenant_id: str, at: datetime | None) -> bool:
        """Disable (or, with None, enable) a tenant; False when there is none."""
        return await self._one(act, sa.update(_tenants).where(_tenants.c.id == tenant_id).values(disabled_at=at))

    async def roles(self) -> list[Role]:
        """The installation's own roles."""
        async with self._database.read() as connection:
            return list(await self._all_roles(connection))

    async def put_role(self, act: Act, role: Role) -> None:
        """Create a role or change what it allows."""
        names = sorted(role.permissions)
        async with self._database.write() as connection:
            await begin_change(connection, act)
            changed = await connection.execute(
                sa.update(_roles).where(_roles.c.name == role.name).values(permissions=names)
            )
            if changed.rowcount == 0:
                await connection.execute(_roles.insert().values(name=role.name, permissions=names, created_at=act.at))

    async def delete_role(self, act: Act, name: str) -> bool:
        """Remove a role; keys that name it lose what it allowed. False when there is none."""
        return await self._one(act, sa.delete(_roles).where(_roles.c.name == name))

    async def limits(self, tenant: str | None) -> list[StoredLimits]:
        """Stored limits; with a tenant, those of its keys, of itself and of the models."""
        query = sa.select(_limits).order_by(_limits.c.scope, _limits.c.subject)
        if tenant is not None:
            its_keys = sa.select(_keys.c.public_id).where(_keys.c.tenant == tenant)
            query = query.where(
                sa.or_(
                    _limits.c.scope == "model",
                    sa.and_(_limits.c.scope == "tenant", _limits.c.subject == tenant),
                    sa.and_(_limits.c.scope == "key", _limits.c.subject.in_(its_keys)),
                )
            )
        async with self._database.read() as connection:
            return await self._stored_limits(connection, query)

    async def put_limits(self, act: Act, stored: StoredLimits) -> None:
        """Set or change the limits of one subject."""
        values = stored.limits.model_dump(exclude_none=True)
        here = sa.and_(_limits.c.scope == stored.scope, _limits.c.subject == stored.subject)
        async with self._database.write() as connection:
            await begin_change(connection, act)
            if (await connection.execute(sa.update(_limits).where(here).values(limits=values))).rowcount == 0:
                await connection.execute(
                    _limits.insert().values(scope=stored.scope, subject=stored.subject, limits=values)
                )

    async def delete_limits(self, act: Act, scope: str, subject: str) -> bool:
        """Go back to the settings' limits; False when there were none stored."""
        here = sa.and_(_limits.c.scope == scope, _limits.c.subject == subject)
        return await self._one(act, sa.delete(_limits).where(here))

    async def _one(self, act: Act, statement: sa.Update | sa.Delete) -> bool:
        """Change one row; False, and nothing recorded, when there is none."""
        with suppress(_NothingToChange):
            async with self._database.write() as connection:
                await begin_change(connection, act)
                if not (await connection.execute(statement)).rowcount:
                    raise _NothingToChange
            return True
        return False

    async def _stored_limits(self, connection: AsyncConnection, query: sa.Select[Any]) -> list[StoredLimits]:
        rows = await connection.execute(query)
        return [StoredLimits(row.scope, row.subject, _limit_set(row.limits)) for row in rows]

    async def _insert(self, connection: AsyncConnection, key: KeyRecord, version: int) -> None:
        await connection.execute(_keys.insert().values(**asdict(key), version=version))

    async def _changed_keys(self, connection: AsyncConnection, floor: int) -> tuple[KeyRecord, ...]:
        """In pages, for the first load may be of 100,000 keys: less memory at once, and others get their turn."""
        query = sa.select(*_KEY_COLUMNS).where(_keys.c.version > floor).order_by(_keys.c.public_id).limit(_PAGE)
        found: list[KeyRecord] = []
        while True:
            after = found[-1].public_id if found else ""
            rows = (await connection.execute(query.where(_keys.c.public_id > after))).mappings().all()
            found += [_key(row) for row in rows]
            if len(rows) < _PAGE:
                return tuple(found)

    async def _all_tenants(self, connection: AsyncConnection) -> tuple[Tenant, ...]:
        rows = await connection.execute(sa.select(_tenants).order_by(_tenants.c.id))
        return tuple(Tenant(**row) for row in rows.mappings())

    async def _all_roles(self, connection: AsyncConnection) -> tuple[Role, ...]:
        rows = await connection.execute(sa.select(_roles).order_by(_roles.c.name))
        return tuple(Role(row.name, _permissions(row.permissions)) for row in rows)


async def require_tenant(connection: AsyncConnection, tenant: str) -> None:
    """Raise NotFound, with the next step, where there is no such tenant."""
    if (await connection.execute(sa.select(_tenants.c.id).where(_tenants.c.id == tenant))).first() is None:
        raise NotFound(
            f"There is no tenant {tenant[:64]!r}.",
            hint=f"`ramsey tenants list` shows them; `ramsey tenants create {tenant[:64]}` makes it.",
        )


def _key(row: Mapping[Any, Any]) -> KeyRecord:
    lists = {name: _shared(tuple(row[name])) for name in ("roles", "scopes", "models", "networks")}
    return KeyRecord(**{**row, **lists, "tenant": sys.intern(row["tenant"])})


@lru_cache(maxsize=1024)
def _shared(names: tuple[str, ...]) -> tuple[str, ...]:
    """One tuple for all keys with the same names: memory is kept for 100,000 of them."""
    return names


def _limit_set(values: dict[str, Any]) -> LimitSet:
    """The limits that this version of the code knows; a newer one may have stored more."""
    return LimitSet(**{name: value for name, value in values.items() if name in LimitSet.model_fields})


def _permissions(names: list[str]) -> frozenset[Permission]:
    """Those that this version of the code knows; a newer one may have stored more."""
    return frozenset(permission for permission in Permission if permission.value in names)

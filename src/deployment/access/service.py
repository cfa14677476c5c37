"""Use cases: keys, tenants and roles. Each says who acts; a change is known in this process when it returns."""

import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from deployment.access.audit import Act, AuditEntry, AuditStore, ChainReport, Selection
from deployment.access.grants import (
    KeyWish,
    OwnRoles,
    check_grant,
    check_model_name,
    check_models,
    check_name,
    check_permissions,
    check_priced,
    check_tenant,
    check_wish,
)
from deployment.access.keys import NewKey, generate_key
from deployment.access.model import KeyRecord, Principal, Role, StoredLimits, Tenant
from deployment.access.permissions import BUILT_IN_ROLES, Permission, permitted
from deployment.access.store import AccessStore
from deployment.clock import Clock
from deployment.errors import Conflict, DatabaseUnavailable, InvalidRequest, NotFound
from deployment.settings import LimitSet, Price
from deployment.spelling import near

_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_ALL = Selection()
MAX_OVERLAP = timedelta(days=90)
LOCAL_OPERATOR = Principal(
    id="local",
    name="the command line",
    tenant="default",
    roles=frozenset({"admin"}),
    scopes=frozenset(),
    key_hash=None,
    permissions=BUILT_IN_ROLES["admin"],
)
"""Who works on this machine with the database itself, and so could do anything anyway."""


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A key that was just made, with the key itself, which nobody can see again."""

    record: KeyRecord
    new: NewKey


class AccessService:
    """What administrators do."""

    def __init__(
        self,
        store: AccessStore,
        audit: AuditStore,
        clock: Clock,
        refresh: Callable[[], Awaitable[None]],
        prices: Mapping[str, Price],
    ) -> None:
        self._store = store
        self._prices = prices
        self._audit = audit
        self._clock = clock
        self._refresh = refresh

    async def create_key(self, actor: Principal, wish: KeyWish) -> CreatedKey:
        """Make a key. Raises Forbidden, InvalidRequest or NotFound when the actor may not have such a one."""
        now = self._clock.now()
        enabled = {tenant.id for tenant in await self._store.tenants() if tenant.disabled_at is None}
        check_wish(wish, actor, enabled, await self._own_roles(), now)
        new = generate_key()
        record = KeyRecord(
            public_id=new.public_id,
            sha256=new.sha256,
            name=wish.name,
            tenant=wish.tenant or actor.tenant,
            roles=wish.roles,
            scopes=wish.scopes,
            models=wish.models,
            networks=wish.networks,
            created_at=now,
            created_by=actor.id,
            expires_at=wish.expires_at,
            revoked_at=None,
            replaced_by=None,
            last_used_at=None,
        )
        await self._store.add_key(self._act(actor, "key.create", record.public_id, after=_facts(record)), record)
        await self._told()
        return CreatedKey(record, new)

    async def keys(
        self, actor: Principal, tenant: str | None = None, after: str = "", limit: int = 100
    ) -> list[KeyRecord]:
        """A page of the keys that the actor may see, after a public id."""
        if tenant is None and Permission.TENANTS_ALL not in actor.permissions:
            tenant = actor.tenant
        if tenant is not None:
            check_tenant(actor, tenant)
        return await self._store.keys(tenant, after, limit)

    async def key(self, actor: Principal, public_id: str) -> KeyRecord:
        """One key. Raises NotFound, also for another tenant's."""
        record = await self._store.key(public_id)
        if record is None or (record.tenant != actor.tenant and Permission.TENANTS_ALL not in actor.permissions):
            raise NotFound(f"There is no key {public_id[:40]!r}.", hint="`ramsey keys list` shows them.")
        return record

    def state(self, key: KeyRecord) -> str:
        """`active`, `expired` or `revoked`, now."""
        return key.state(self._clock.now())

    async def rotate_key(self, actor: Principal, public_id: str, overlap: timedelta) -> CreatedKey:
        """Make a key's successor; the old one goes on for `overlap` (0 to 90 days), so that nothing breaks."""
        if not timedelta(0) <= overlap <= MAX_OVERLAP:
            raise InvalidRequest("The overlap is 0 to 90 days.")
        old, now = await self.key(actor, public_id), self._clock.now()
        if old.state(now) != "active":
            raise Conflict(f"The key {public_id} is {old.state(now)}.", hint="Create a new one.")
        if old.replaced_by is not None:
            raise Conflict(f"The key {public_id} has a successor already: {old.replaced_by}.")
        check_grant(actor, permitted(old.roles, old.scopes, await self._own_roles()))
        check_models(actor, old.models)
        new = generate_key()
        successor = replace(
            old,
            public_id=new.public_id,
            sha256=new.sha256,
            created_at=now,
            created_by=actor.id,
            last_used_at=None,
        )
        end = min(now + overlap, old.expires_at or datetime.max.replace(tzinfo=now.tzinfo))
        after = {"successor": new.public_id, "ends": end.isoformat()}
        act = self._act(actor, "key.rotate", public_id, before=_facts(old), after=after)
        if not await self._store.replace_key(act, replace(old, expires_at=end), successor):
            raise Conflict(f"The key {public_id} was rotated or revoked by somebody else just now.")
        await self._told()
        return CreatedKey(successor, new)

    async def revoke_key(self, actor: Principal, public_id: str) -> KeyRecord:
        """End a key, here at once and in every process within a second. Twice is as good as once."""
        before = _facts(await self.key(actor, public_id))
        await self._store.revoke_key(self._act(actor, "key.revoke", public_id, before=before), public_id)
        await self._told()
        return await self.key(actor, public_id)

    async def tenants(self, actor: Principal) -> list[Tenant]:
        """All tenants, or the actor's own."""
        tenants = await self._store.tenants()
        everywhere = Permission.TENANTS_ALL in actor.permissions
        return [tenant for tenant in tenants if everywhere or tenant.id == actor.tenant]

    async def create_tenant(self, actor: Principal, tenant_id: str, name: str) -> Tenant:
        """Make a tenant. Raises Conflict when the id is taken."""
        actor.require(Permission.TENANTS_ALL)
        _check_id(tenant_id, "tenant's id")
        check_name(name)
        tenant = Tenant(tenant_id, name, self._clock.now(), None)
        if not await self._store.add_tenant(self._act(actor, "tenant.create", tenant_id, after={"name": name}), tenant):
            raise Conflict(f"There is a tenant {tenant_id} already.")
        await self._told()
        return tenant

    async def set_tenant_enabled(self, actor: Principal, tenant_id: str, enabled: bool) -> None:
        """Let a tenant's keys in, or keep all of them out until it is enabled again."""
        actor.require(Permission.TENANTS_ALL)
        if not enabled and tenant_id == actor.tenant:
            raise Conflict("That is your own tenant: you would lock yourself out.")
        before = [tenant for tenant in await self._store.tenants() if tenant.id == tenant_id]
        facts = {"before": {"enabled": before[0].disabled_at is None} if before else {}, "after": {"enabled": enabled}}
        act = self._act(actor, "tenant.enable" if enabled else "tenant.disable", tenant_id, **facts)
        if not await self._store.set_tenant_disabled(act, tenant_id, None if enabled else act.at):
            raise NotFound(f"There is no tenant {tenant_id[:64]!r}.", hint="`ramsey tenants list` shows them.")
        await self._told()

    async def roles(self) -> list[Role]:
        """Built-in and own roles."""
        built_in = [Role(name, permissions) for name, permissions in BUILT_IN_ROLES.items()]
        return built_in + await self._store.roles()

    async def put_role(self, actor: Principal, name: str, permissions: tuple[str, ...]) -> Role:
        """Make a role or change what it allows, for all tenants and for the keys that have it."""
        actor.require(Permission.TENANTS_ALL)
        _check_id(name, "role's name")
        if name in BUILT_IN_ROLES:
            raise Conflict(f"{name} is built in and cannot be changed.", hint="Give your role another name.")
        role = Role(name, check_permissions(permissions))
        check_grant(actor, role.permissions)
        before = sorted((await self._own_roles()).get(name, ()))
        act = self._act(actor, "role.put", name, before=before, after=sorted(role.permissions))
        await self._store.put_role(act, role)
        await self._told()
        return role

    async def delete_role(self, actor: Principal, name: str) -> None:
        """Remove an own role; keys that have it lose what it allowed."""
        actor.require(Permission.TENANTS_ALL)
        if name in BUILT_IN_ROLES:
            raise Conflict(f"{name} is built in and cannot be deleted.")
        before = sorted((await self._own_roles()).get(name, ()))
        if not await self._store.delete_role(self._act(actor, "role.delete", name, before=before), name):
            raise NotFound(f"There is no role {name[:64]!r}.", hint="`ramsey roles list` shows them.")
        await self._told()

    async def limits(self, actor: Principal) -> list[StoredLimits]:
        """Stored limits that concern the actor's tenant, or all of them."""
        everywhere = Permission.TENANTS_ALL in actor.permissions
        return await self._store.limits(None if everywhere else actor.tenant)

    async def put_limits(self, actor: Principal, scope: str, subject: str, limits: LimitSet) -> StoredLimits:
        """Give a key, tenant or model limits of its own, in place of all of the settings' for its kind."""
        models = await self._check_limits(actor, scope, subject)
        if limits.money_per_day or limits.money_per_month:
            check_priced(models, self._prices)
        stored = StoredLimits(scope, subject, limits)
        after = limits.model_dump(exclude_none=True)
        act = self._act(
            actor, "limits.put", f"{scope}/{subject}", before=await self._limits_of(scope, subject), after=after
        )
        await self._store.put_limits(act, stored)
        await self._told()
        return stored

    async def delete_limits(self, actor: Principal, scope: str, subject: str) -> None:
        """Go back to the settings' limits."""
        await self._check_limits(actor, scope, subject)
        before = await self._limits_of(scope, subject)
        act = self._act(actor, "limits.delete", f"{scope}/{subject}", before=before)
        if not await self._store.delete_limits(act, scope, subject):
            raise NotFound(f"The {scope} {subject[:64]!r} has no limits of its own.")
        await self._told()

    async def audit(self, actor: Principal, wanted: Selection = _ALL, limit: int = 100) -> list[AuditEntry]:
        """What administrators of the actor's tenant (or of all) did. Raises NotFound for another's tenant, or none."""
        if wanted.tenant is not None:
            check_tenant(actor, wanted.tenant)
        elif Permission.TENANTS_ALL not in actor.permissions:
            wanted = replace(wanted, tenant=actor.tenant)
        entries = await self._audit.entries(wanted, limit)
        if not entries and wanted.tenant:
            await self._require_known(wanted.tenant)
        return entries

    async def _require_known(self, tenant: str) -> None:
        """There is such a tenant, or the record has it: keys of the settings name theirs as they like."""
        known = {each.id for each in await self._store.tenants()}
        if tenant not in known and not await self._audit.entries(Selection(tenant), 1):
            meant = near(tenant, known)
            hint = f"Did you mean {meant}? " if meant else ""
            raise NotFound(f"There is no tenant {tenant[:64]!r}.", hint=f"{hint}`ramsey tenants list` shows them.")

    async def verify_audit(self, actor: Principal, after: int = 0, limit: int | None = None) -> ChainReport:
        """Whether the record is whole, or so many entries of it after one."""
        actor.require(Permission.TENANTS_ALL)
        return await self._audit.verify(after, limit)

    async def _told(self) -> None:
        """It is done: that this process cannot hear of it now must not make it look undone, and a new key be lost."""
        with suppress(DatabaseUnavailable):
            await self._refresh()

    def _act(self, actor: Principal, action: str, subject: str, **detail: Any) -> Act:
        return Act(self._clock.now(), actor, action, subject, detail)

    async def _limits_of(self, scope: str, subject: str) -> dict[str, float]:
        stored = [one for one in await self._store.limits(None) if (one.scope, one.subject) == (scope, subject)]
        return stored[0].limits.model_dump(exclude_none=True) if stored else {}

    async def _check_limits(self, actor: Principal, scope: str, subject: str) -> tuple[str, ...]:
        """The models that such limits are for; empty for all.

        A tenant's own administrators limit its keys; what limits the tenant is not theirs to change.
        """
        if scope == "key":
            return (await self.key(actor, subject)).models
        actor.require(Permission.TENANTS_ALL)
        if scope == "tenant" and subject not in {tenant.id for tenant in await self._store.tenants()}:
            raise NotFound(f"There is no tenant {subject[:64]!r}.", hint="`ramsey tenants list` shows them.")
        if scope == "model":
            check_model_name(subject)
        if scope not in {"tenant", "model"}:
            raise InvalidRequest("Limits are of a key, a tenant or a model.")
        return (subject,) if scope == "model" else ()

    async def _own_roles(self) -> OwnRoles:
        return {role.name: role.permissions for role in await self._store.roles()}


def _facts(key: KeyRecord) -> dict[str, Any]:
    """What the record says of a key."""
    expires_at = key.expires_at.isoformat() if key.expires_at is not None else None
    shown = ("name", "tenant", "roles", "scopes", "models", "networks")
    return {name: getattr(key, name) for name in shown} | {"expires_at": expires_at}


def _check_id(value: str, what: str) -> None:
    if not _ID.fullmatch(value):
        raise InvalidRequest(f"A {what} is 1 to 64 of a-z, 0-9, _ and -, and begins with a letter or digit.")

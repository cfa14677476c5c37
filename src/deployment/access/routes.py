"""The admin API of access. Each route's signature says which permission it needs."""

from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from deployment.access.grants import KeyWish
from deployment.access.guard import AdminRoute, Callers, Needs
from deployment.access.model import KeyRecord, Principal, Role, StoredLimits, Tenant
from deployment.access.permissions import BUILT_IN_ROLES, Permission
from deployment.access.service import AccessService, CreatedKey
from deployment.settings import LimitSet
from deployment.texts import PlainLine


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


Names = Annotated[tuple[Annotated[PlainLine, Field(max_length=128)], ...], Field(max_length=100)]


class KeyIn(_Body):
    """A key to be made."""

    name: str = Field(max_length=64, examples=["web shop"])
    tenant: str | None = Field(None, max_length=64, description="By default the caller's own.")
    roles: Names = ("user",)
    scopes: Names = Field((), description="Narrows the roles; empty narrows nothing.")
    models: Names = Field((), description="The models that it may ask; empty for all.")
    networks: Names = Field((), description="Networks that it may call from; empty for all.", examples=[["10.0.0.0/8"]])
    expires_at: datetime | None = Field(None, description="With a time zone; by default never.")


class RotateIn(_Body):
    """How a key is rotated."""

    overlap_seconds: float = Field(
        86400.0, ge=0, le=90 * 86400, allow_inf_nan=False, description="How long the old key goes on working."
    )


class TenantIn(_Body):
    """A tenant to be made."""

    id: str = Field(max_length=64, examples=["acme"])
    name: str = Field(max_length=64, examples=["Acme Ltd"])


class RoleIn(_Body):
    """What a role allows."""

    permissions: Names = Field(examples=[["inference", "usage:read"]])


class KeyOut(BaseModel):
    """A key as administrators see it; the key itself is not in it."""

    public_id: str
    key_hash: str = Field(description="As it appears in logs.")
    name: str
    tenant: str
    roles: tuple[str, ...]
    scopes: tuple[str, ...]
    models: tuple[str, ...]
    networks: tuple[str, ...]
    state: str = Field(description="active, expired or revoked.")
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    replaced_by: str | None
    last_used_at: datetime | None


class CreatedKeyOut(KeyOut):
    """A key that was just made."""

    key: str = Field(description="The key. It is shown this once; only its hash is kept.")


class TenantOut(BaseModel):
    """A tenant."""

    id: str
    name: str
    created_at: datetime
    disabled_at: datetime | None


class RoleOut(BaseModel):
    """A role."""

    name: str
    built_in: bool
    permissions: list[str]


class LimitsOut(BaseModel):
    """Limits of one key, tenant or model, in place of the settings' ones."""

    scope: str = Field(description="key, tenant or model.")
    subject: str = Field(description="Public id of the key, id of the tenant, or name of the model.")
    limits: LimitSet


def admin_routes(service: AccessService, authenticator: Callers) -> APIRouter:
    """The routes under /admin for keys, tenants, roles and limits."""
    router = APIRouter(prefix="/admin", route_class=AdminRoute)
    for add in (_key_routes, _tenant_routes, _role_routes, _limit_routes):
        add(router, service, authenticator)
    return router


def _key_routes(router: APIRouter, service: AccessService, authenticator: Callers) -> None:
    reader = Annotated[Principal, Depends(Needs(Permission.KEYS_READ, authenticator))]
    writer = Annotated[Principal, Depends(Needs(Permission.KEYS_WRITE, authenticator))]

    @router.get("/keys", tags=["keys"])
    async def list_keys(
        caller: reader,
        tenant: Annotated[str | None, Query(max_length=64)] = None,
        after: Annotated[str, Query(max_length=64, description="The last public id of the page before.")] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> list[KeyOut]:
        """A page of keys, in the order of their public ids."""
        return [_key(key, service) for key in await service.keys(caller, tenant, after, limit)]

    @router.post("/keys", status_code=201, tags=["keys"])
    async def create_key(caller: writer, body: KeyIn, response: Response) -> CreatedKeyOut:
        """Make a key. It is shown in this answer and never again."""
        response.headers["Cache-Control"] = "no-store"
        return _created(await service.create_key(caller, KeyWish(**body.model_dump())), service)

    @router.get("/keys/{public_id}", tags=["keys"])
    async def show_key(caller: reader, public_id: str) -> KeyOut:
        """One key."""
        return _key(await service.key(caller, public_id), service)

    @router.post("/keys/{public_id}/rotate", status_code=201, tags=["keys"])
    async def rotate_key(caller: writer, public_id: str, body: RotateIn, response: Response) -> CreatedKeyOut:
        """Make a key's successor; both work until the overlap ends."""
        response.headers["Cache-Control"] = "no-store"
        overlap = timedelta(seconds=body.overlap_seconds)
        return _created(await service.rotate_key(caller, public_id, overlap), service)

    @router.post("/keys/{public_id}/revoke", tags=["keys"])
    async def revoke_key(caller: writer, public_id: str) -> KeyOut:
        """End a key everywhere within a second."""
        return _key(await service.revoke_key(caller, public_id), service)


def _tenant_routes(router: APIRouter, service: AccessService, authenticator: Callers) -> None:
    reader = Annotated[Principal, Depends(Needs(Permission.TENANTS_READ, authenticator))]
    writer = Annotated[Principal, Depends(Needs(Permission.TENANTS_WRITE, authenticator))]

    @router.get("/tenants", tags=["tenants"])
    async def list_tenants(caller: reader) -> list[TenantOut]:
        """The tenants that the caller may see."""
        return [_tenant(tenant) for tenant in await service.tenants(caller)]

    @router.post("/tenants", status_code=201, tags=["tenants"])
    async def create_tenant(caller: writer, body: TenantIn) -> TenantOut:
        """Make a tenant."""
        return _tenant(await service.create_tenant(caller, body.id, body.name))

    @router.post("/tenants/{tenant_id}/disable", status_code=204, tags=["tenants"])
    async def disable_tenant(caller: writer, tenant_id: str) -> None:
        """Keep all of a tenant's keys out."""
        await service.set_tenant_enabled(caller, tenant_id, False)

    @router.post("/tenants/{tenant_id}/enable", status_code=204, tags=["tenants"])
    async def enable_tenant(caller: writer, tenant_id: str) -> None:
        """Let a tenant's keys in again."""
        await service.set_tenant_enabled(caller, tenant_id, True)


def _role_routes(router: APIRouter, service: AccessService, authenticator: Callers) -> None:
    reader = Annotated[Principal, Depends(Needs(Permission.ROLES_READ, authenticator))]
    writer = Annotated[Principal, Depends(Needs(Permission.ROLES_WRITE, authenticator))]

    @router.get("/roles", tags=["roles"])
    async def list_roles(caller: reader) -> list[RoleOut]:
        """Built-in and own roles, and what they allow."""
        return [_role(role) for role in await service.roles()]

    @router.put("/roles/{name}", tags=["roles"])
    async def put_role(caller: writer, name: str, body: RoleIn) -> RoleOut:
        """Make a role or change what it allows."""
        return _role(await service.put_role(caller, name, body.permissions))

    @router.delete("/roles/{name}", status_code=204, tags=["roles"])
    async def delete_role(caller: writer, name: str) -> None:
        """Remove an own role."""
        await service.delete_role(caller, name)


def _limit_routes(router: APIRouter, service: AccessService, authenticator: Callers) -> None:
    reader = Annotated[Principal, Depends(Needs(Permission.LIMITS_READ, authenticator))]
    writer = Annotated[Principal, Depends(Needs(Permission.LIMITS_WRITE, authenticator))]

    @router.get("/limits", tags=["limits"])
    async def list_limits(caller: reader) -> list[LimitsOut]:
        """The keys, tenants and models that have limits of their own."""
        return [_limits(stored) for stored in await service.limits(caller)]

    @router.put("/limits/{scope}/{subject:path}", tags=["limits"])
    async def put_limits(caller: writer, scope: str, subject: str, body: LimitSet) -> LimitsOut:
        """Give a key, tenant or model limits of its own; what is left out is not limited."""
        return _limits(await service.put_limits(caller, scope, subject, body))

    @router.delete("/limits/{scope}/{subject:path}", status_code=204, tags=["limits"])
    async def delete_limits(caller: writer, scope: str, subject: str) -> None:
        """Go back to the settings' limits."""
        await service.delete_limits(caller, scope, subject)


def _limits(stored: StoredLimits) -> LimitsOut:
    return LimitsOut(scope=stored.scope, subject=stored.subject, limits=stored.limits)


def _fields(key: KeyRecord, service: AccessService) -> dict[str, Any]:
    shared = {name: getattr(key, name) for name in KeyOut.model_fields if name not in {"state", "key_hash"}}
    return {**shared, "key_hash": key.sha256[:12], "state": service.state(key)}


def _key(key: KeyRecord, service: AccessService) -> KeyOut:
    return KeyOut(**_fields(key, service))


def _created(created: CreatedKey, service: AccessService) -> CreatedKeyOut:
    return CreatedKeyOut(**_fields(created.record, service), key=created.new.key)


def _tenant(tenant: Tenant) -> TenantOut:
    return TenantOut(**{name: getattr(tenant, name) for name in TenantOut.model_fields})


def _role(role: Role) -> RoleOut:
    return RoleOut(name=role.name, built_in=role.name in BUILT_IN_ROLES, permissions=sorted(role.permissions))

"""Administrators see who is signed in with a browser, and end sessions."""

import re
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from deployment.access.audit import Act
from deployment.access.grants import check_tenant
from deployment.access.guard import Callers, Needs
from deployment.access.model import Principal, SessionRecord
from deployment.access.permissions import Permission
from deployment.access.sessions.store import SessionStore
from deployment.clock import Clock
from deployment.errors import NotFound

_ID = re.compile(r"se_[0-9a-f]{16}")


class SessionOut(BaseModel):
    """A browser that somebody signed in with."""

    public_id: str
    name: str = Field(description="The subject, as the provider names it.")
    shown_name: str
    tenant: str
    roles: tuple[str, ...]
    issuer: str
    created_at: datetime
    last_seen_at: datetime = Field(description="To about a minute.")
    expires_at: datetime
    ended_at: datetime | None


class SessionService:
    """What administrators do with sessions. Others' than their tenant's do not exist for them."""

    def __init__(self, store: SessionStore, clock: Clock, refresh: Callable[[], Awaitable[None]]) -> None:
        self._store, self._clock, self._refresh = store, clock, refresh

    async def sessions(self, actor: Principal, tenant: str | None, after: str, limit: int) -> list[SessionRecord]:
        """A page of those that go on, in the order of their public ids."""
        if tenant is None and Permission.TENANTS_ALL not in actor.permissions:
            tenant = actor.tenant
        if tenant is not None:
            check_tenant(actor, tenant)
        return await self._store.going_on(tenant, self._clock.now(), _digits(after) if after else "", limit)

    async def revoke(self, actor: Principal, public_id: str) -> SessionRecord:
        """End a session, here at once and in every process within a second. Twice is as good as once."""
        record = await self._session(actor, public_id)
        if record.ended_at is None:
            before = {"name": record.name, "tenant": record.tenant, "roles": record.roles}
            act = Act(self._clock.now(), actor, "session.revoke", public_id, {"before": before})
            await self._store.end(act, record.sha256)
            await self._refresh()
        return await self._session(actor, public_id)

    async def _session(self, actor: Principal, public_id: str) -> SessionRecord:
        record = await self._store.session(_digits(public_id))
        if record is None or (record.tenant != actor.tenant and Permission.TENANTS_ALL not in actor.permissions):
            raise _unknown(public_id)
        return record


def add_session_routes(router: APIRouter, service: SessionService, authenticator: Callers) -> None:
    """Add the routes under /admin/sessions."""
    reader = Annotated[Principal, Depends(Needs(Permission.KEYS_READ, authenticator))]
    writer = Annotated[Principal, Depends(Needs(Permission.KEYS_WRITE, authenticator))]

    @router.get("/sessions", tags=["sessions"])
    async def list_sessions(
        caller: reader,
        tenant: Annotated[str | None, Query(max_length=64)] = None,
        after: Annotated[str, Query(max_length=64, description="The last public id of the page before.")] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> list[SessionOut]:
        """A page of the browsers that are signed in, in the order of their public ids."""
        return [_session(record) for record in await service.sessions(caller, tenant, after, limit)]

    @router.post("/sessions/{public_id}/revoke", tags=["sessions"])
    async def revoke_session(caller: writer, public_id: str) -> SessionOut:
        """Sign a browser out, everywhere within a second. The provider does not hear of it."""
        return _session(await service.revoke(caller, public_id))


def _session(record: SessionRecord) -> SessionOut:
    named = {name: getattr(record, name) for name in SessionOut.model_fields if name != "last_seen_at"}
    return SessionOut(**named, last_seen_at=record.seen_at)


def _digits(public_id: str) -> str:
    """The part of its hash that a public id shows. Raises NotFound where it is none."""
    if not _ID.fullmatch(public_id):
        raise _unknown(public_id)
    return public_id.removeprefix("se_")


def _unknown(public_id: str) -> NotFound:
    return NotFound(f"There is no session {public_id[:40]!r}.", hint="`ramsey sessions list` shows them.")

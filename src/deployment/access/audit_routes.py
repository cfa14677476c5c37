"""The record of administrative acts over HTTP."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime, BaseModel, Field

from deployment.access.audit import Selection
from deployment.access.guard import Callers, Needs
from deployment.access.model import Principal
from deployment.access.permissions import Permission
from deployment.access.service import AccessService

_MOST = 2**63 - 1


class AuditOut(BaseModel):
    """One administrative act."""

    seq: int
    at: str
    actor: str
    actor_name: str
    tenant: str = Field(description="The actor's.")
    action: str
    subject: str
    detail: dict[str, Any] = Field(description="before and after, as far as they matter.")
    source: str = Field(description="The address that it came from; empty for the command line.")
    request_id: str
    previous: str = Field(description="Hash of the entry before; 64 zeros for the first.")
    hash: str = Field(description="SHA-256 of all else, as docs/access.md says.")


class ChainOut(BaseModel):
    """What a look at the whole record found."""

    whole: bool = Field(description="Whether all that was looked at fits.")
    entries: int = Field(description="How many are whole, from the first on.")
    of: int = Field(description="The number of the newest entry. Go on with `after` while entries is less.")
    broken_at: int | None = Field(description="Number of the first entry that was changed, or that is missing.")
    last_hash: str = Field(description="Keep it elsewhere, to notice later that the end was cut off.")


def add_audit_routes(router: APIRouter, service: AccessService, authenticator: Callers) -> None:
    """Add the routes under /admin/audit."""
    reader = Annotated[Principal, Depends(Needs(Permission.AUDIT_READ, authenticator))]

    @router.get("/audit", tags=["audit"])
    async def list_audit(
        caller: reader,
        before: Annotated[int | None, Query(ge=1, le=_MOST, description="Older than this entry.")] = None,
        after: Annotated[
            int | None, Query(ge=0, le=_MOST, description="Newer than this entry; the oldest come first then.")
        ] = None,
        since: Annotated[AwareDatetime | None, Query(description="From the first entry not older than this.")] = None,
        until: Annotated[AwareDatetime | None, Query(description="Up to the first entry not older than this.")] = None,
        tenant: Annotated[str | None, Query(max_length=64, description="Of this tenant's administrators.")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> list[AuditOut]:
        """What administrators did, the newest first; the oldest first after an entry."""
        wanted = Selection(tenant, before, after, since, until)
        return [
            AuditOut(
                **{name: getattr(entry, name) for name in AuditOut.model_fields if name != "detail"},
                detail=orjson.loads(entry.detail),
            )
            for entry in await service.audit(caller, wanted, limit)
        ]

    @router.get("/audit/verify", tags=["audit"])
    async def verify_audit(
        caller: reader,
        after: Annotated[int, Query(ge=0, le=_MOST, description="Begin after this entry.")] = 0,
        limit: Annotated[int | None, Query(ge=1, le=100_000, description="Look at so many; by default at all.")] = None,
    ) -> ChainOut:
        """Whether the record is whole."""
        report = await service.verify_audit(caller, after, limit)
        return ChainOut(
            whole=report.broken_at is None,
            entries=report.entries,
            of=report.of,
            broken_at=report.broken_at,
            last_hash=report.last_hash,
        )

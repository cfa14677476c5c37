"""The record of administrative acts over HTTP."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from deployment.access.model import Principal
from deployment.access.permissions import Permission
from deployment.access.routes import Callers, Needs
from deployment.access.service import AccessService


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
    hash: str


class ChainOut(BaseModel):
    """What a look at the whole record found."""

    whole: bool
    entries: int
    broken_at: int | None = Field(description="Number of the first entry that was changed, or that is missing.")
    last_hash: str = Field(description="Keep it elsewhere, to notice later that the end was cut off.")


def add_audit_routes(router: APIRouter, service: AccessService, authenticator: Callers) -> None:
    """Add the routes under /admin/audit."""
    reader = Annotated[Principal, Depends(Needs(Permission.AUDIT_READ, authenticator))]

    @router.get("/audit", tags=["audit"])
    async def list_audit(
        caller: reader,
        before: Annotated[int | None, Query(ge=1, le=2**63 - 1, description="Older than this entry.")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> list[AuditOut]:
        """What administrators did, the newest first."""
        return [
            AuditOut(
                **{name: getattr(entry, name) for name in AuditOut.model_fields if name != "detail"},
                detail=orjson.loads(entry.detail),
            )
            for entry in await service.audit(caller, before, limit)
        ]

    @router.get("/audit/verify", tags=["audit"])
    async def verify_audit(caller: reader) -> ChainOut:
        """Whether the record is whole."""
        report = await service.verify_audit(caller)
        return ChainOut(
            whole=report.broken_at is None,
            entries=report.entries,
            broken_at=report.broken_at,
            last_hash=report.last_hash,
        )

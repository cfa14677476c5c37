"""The admin API of privacy."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, ConfigDict, Field

from deployment.access import AdminRoute, Callers, Needs, Permission, Principal
from deployment.privacy.model import Wish
from deployment.privacy.service import PrivacyService


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class WishIn(_Body):
    """What a tenant wants to be kept."""

    keep: bool
    days: int = Field(30, ge=1, le=3650, description="How long a conversation is kept.")
    redact: bool = Field(True, description="Replace personal data before it is kept.")


class WishOut(BaseModel):
    """What is kept for a tenant."""

    tenant: str
    keep: bool
    days: int
    redact: bool
    set_at: datetime | None
    set_by: str


class SubjectIn(_Body):
    """A person: what the caller said in X-Ramsey-Subject or OpenAI's `user`, else the key's id."""

    subject: str = Field(min_length=1, max_length=256, examples=["customer-4711"])
    tenant: str | None = Field(None, max_length=64, description="By default the caller's own.")


class ExportIn(SubjectIn):
    """A person, and where to go on."""

    after: str | None = Field(None, max_length=100, description="`next` of the page before.")


class ConversationOut(BaseModel):
    """One request with its answer."""

    id: str
    tenant: str
    subject: str
    at: datetime
    expires_at: datetime
    request_id: str
    model: str
    release: str
    content: dict[str, Any]


class ExportOut(BaseModel):
    """A page of what is kept of a person."""

    conversations: list[ConversationOut]
    next: str | None = Field(description="Give it as `after` for the next page; null at the end.")


class ErasedOut(BaseModel):
    """What was erased."""

    conversations: int
    votes: int


class RotatedOut(BaseModel):
    """What was sealed anew."""

    conversations: int


def privacy_routes(service: PrivacyService, authenticator: Callers) -> APIRouter:
    """`/admin/privacy`."""
    router = APIRouter(prefix="/admin/privacy", tags=["privacy"], route_class=AdminRoute)
    Reader = Annotated[Principal, Depends(Needs(Permission.PRIVACY_READ, authenticator))]  # noqa: N806 - a type
    Writer = Annotated[Principal, Depends(Needs(Permission.PRIVACY_WRITE, authenticator))]  # noqa: N806 - a type

    @router.get("/tenants", summary="What is kept for whom")
    async def wishes(caller: Reader) -> list[WishOut]:
        """The tenants that ever asked for something."""
        return [WishOut(**asdict(wish)) for wish in await service.wishes(caller)]

    @router.put("/tenants/{tenant}", summary="Begin or end to keep conversations")
    async def put_wish(tenant: Annotated[str, Path(max_length=64)], body: WishIn, caller: Writer) -> WishOut:
        """From then on, everywhere within two seconds. What was kept stays until it expires or is erased."""
        return WishOut(**asdict(await service.set(caller, Wish(tenant, body.keep, body.days, body.redact))))

    @router.post("/export", summary="Everything that is kept of a person")
    async def export(body: ExportIn, caller: Reader) -> ExportOut:
        """In pages, the oldest first."""
        page, more = await service.export(caller, body.tenant or caller.tenant, body.subject, body.after)
        return ExportOut(conversations=[ConversationOut(**asdict(one)) for one in page], next=more)

    @router.post("/erase", summary="Erase a person")
    async def erase(body: SubjectIn, caller: Writer) -> ErasedOut:
        """Every conversation, and the votes on them; all of it or nothing."""
        return ErasedOut(**asdict(await service.erase(caller, body.tenant or caller.tenant, body.subject)))

    @router.post("/rotate", summary="Seal everything with the first key")
    async def rotate(caller: Writer) -> RotatedOut:
        """Then the other keys may leave the settings."""
        return RotatedOut(conversations=await service.rotate(caller))

    return router

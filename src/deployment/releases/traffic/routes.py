"""The admin API of traffic."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from deployment.access import AdminRoute, Authenticator, Needs, Permission, Principal
from deployment.releases.traffic.model import (
    MOST_LABELS,
    MOST_PINS,
    MOST_SHARES,
    Pin,
    PinKind,
    Shadow,
    Share,
    Split,
    Sticky,
)
from deployment.releases.traffic.service import TrafficService
from deployment.releases.traffic.table import Traffic
from deployment.texts import Plain, PlainLine

_Name = Annotated[str, Field(max_length=170)]
_Label = Annotated[PlainLine, Field(max_length=64)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ShareIn(_Body):
    """One release's part."""

    release: _Name = Field(examples=["ramsey-model:v1.1"])
    weight: float = Field(ge=0, le=1, allow_inf_nan=False, description="0 keeps it warm without traffic.")
    nodes: dict[_Label, _Label] = Field(
        {}, max_length=MOST_LABELS, description="Labels of the nodes that hold it; empty for all."
    )


class PinIn(_Body):
    """Requests that always go to one release."""

    kind: PinKind = Field(description="header (its value of X-Ramsey-Release-Pin), key (its public id) or tenant.")
    value: str = Field(min_length=1, max_length=200, examples=["acme"])
    release: _Name


class ShadowIn(_Body):
    """A part of the requests is also asked of this release; its answers are compared and thrown away."""

    release: _Name
    share: float = Field(gt=0, le=1, allow_inf_nan=False)


class SplitIn(_Body):
    """How a model's traffic is to be divided."""

    version: int = Field(ge=0, description="Of the split that this one replaces; 409 when that was changed meanwhile.")
    shares: list[ShareIn] = Field(min_length=1, max_length=MOST_SHARES, description="Their weights sum to 1.")
    pins: list[PinIn] = Field([], max_length=MOST_PINS)
    sticky: Sticky = Field(Sticky.NONE, description="Who keeps a release: nobody, a session or a key.")
    shadow: ShadowIn | None = None
    reason: Plain = Field("", max_length=1000, description="For the record.")


class ShareOut(BaseModel):
    """One release's part."""

    release: str
    weight: float
    nodes: dict[str, str]


class PinOut(BaseModel):
    """Requests that always go to one release."""

    kind: PinKind
    value: str
    release: str


class ShadowOut(BaseModel):
    """What is mirrored."""

    release: str
    share: float


class SplitOut(BaseModel):
    """How a model's traffic is divided."""

    model: str
    version: int
    shares: list[ShareOut]
    pins: list[PinOut]
    sticky: Sticky
    shadow: ShadowOut | None
    candidate: str | None = Field(description="The release under judgement while a rollout runs.")
    rollout: str | None
    set_by: str
    set_at: datetime | None
    reason: str


class GatewayOut(BaseModel):
    """A gateway that lives."""

    id: str
    seen_at: datetime
    traffic_version: int = Field(description="Of the table that it has; everywhere the newest within a second.")


class TrafficOut(BaseModel):
    """The whole table."""

    version: int = Field(description="Of the table in the gateway that answers.")
    models: list[SplitOut]
    gateways: list[GatewayOut]


def traffic_routes(service: TrafficService, traffic: Traffic, authenticator: Authenticator) -> APIRouter:
    """`/admin/traffic`."""
    router = APIRouter(prefix="/admin/traffic", tags=["traffic"], route_class=AdminRoute)
    read, write = Needs(Permission.RELEASES_READ, authenticator), Needs(Permission.RELEASES_WRITE, authenticator)
    Writer = Annotated[Principal, Depends(write)]  # noqa: N806 - a type

    @router.get("", dependencies=[Depends(read)], summary="Show the traffic")
    async def shown() -> TrafficOut:
        """Every model's split, and which gateways have it."""
        models = [_out(split) for split in await service.all()]
        gateways = [GatewayOut.model_validate(asdict(row)) for row in await service.gateways()]
        return TrafficOut(version=traffic.version, models=models, gateways=gateways)

    @router.get("/{model}", dependencies=[Depends(read)], summary="Show a model's traffic")
    async def one(model: str) -> SplitOut:
        """One model's split. 404 where it has none."""
        return _out(await service.get(model))

    @router.put("/{model}", summary="Change a model's traffic")
    async def put(model: str, body: SplitIn, caller: Writer) -> SplitOut:
        """At once here, within a second on every gateway. 409 while a rollout moves the model's traffic, when the
        version is another, or when no node can answer for a release."""
        return _out(await service.set(_split(model, body), caller, body.version))

    return router


def _split(model: str, body: SplitIn) -> Split:
    return Split(
        model,
        tuple(Share(each.release, each.weight, dict(each.nodes)) for each in body.shares),
        pins=tuple(Pin(each.kind, each.value, each.release) for each in body.pins),
        sticky=body.sticky,
        shadow=Shadow(body.shadow.release, body.shadow.share) if body.shadow else None,
        reason=body.reason,
    )


def _out(split: Split) -> SplitOut:
    told: dict[str, Any] = asdict(split)
    return SplitOut.model_validate(told)

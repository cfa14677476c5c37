"""The admin API of rollouts."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Path, Query
from fastapi.responses import PlainTextResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from deployment.access import AdminRoute, Authenticator, Needs, Permission, Principal
from deployment.errors import ConfigurationError, InvalidRequest
from deployment.releases.rollout.commands import Verb
from deployment.releases.rollout.figures import Side
from deployment.releases.rollout.judging import evidence_out
from deployment.releases.rollout.model import Phase, Rollout
from deployment.releases.rollout.plan import parse
from deployment.releases.rollout.report import report
from deployment.releases.rollout.service import RolloutService
from deployment.releases.rollout.store import Event, Lock
from deployment.texts import Plain

_Name = Annotated[str, Field(max_length=170, pattern=r"^[a-z0-9_][a-z0-9_.:-]*$")]
_Model = Annotated[
    str | None, Query(pattern=r"^[a-z0-9_][a-z0-9_.-]{0,79}$", description="By default the settings' model.")
]
_Id = Annotated[str, Path(pattern=r"^[a-z0-9-]{1,64}$")]
_Reason = Annotated[Plain, Field(max_length=500, description="Why; for the record and for who is told.")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DeployIn(_Body):
    """A rollout to begin."""

    release: _Name = Field(examples=["v1.1"], description="The release, with or without its model's name.")
    plan: dict[str, Any] = Field({}, description="As in rollout.toml; what is not said has a default.")
    note: _Reason = ""
    force: bool = Field(False, description="Also within a freeze window of the plan.")


class SayIn(_Body):
    """What goes with a word."""

    reason: _Reason = ""
    full: bool = Field(False, description="With promote: all traffic at once, not only the next step.")


class RollbackIn(_Body):
    """Where to."""

    release: _Name | None = Field(None, description="By default the release before.")
    reason: _Reason = ""


class LockIn(_Body):
    """Why nothing shall move."""

    message: Plain = Field(min_length=1, max_length=500)


class SideOut(BaseModel):
    """One release's figures. Times in milliseconds."""

    release: str
    weight: float
    requests: int
    failed: int
    slow: int
    ttft_p50_ms: float | None
    ttft_p95_ms: float | None
    token_p50_ms: float | None
    scored: int
    score: float | None


class StepOut(BaseModel):
    """A step of the plan."""

    weight: float
    min_time: float | None
    min_requests: int | None
    deadline: float | None
    approval: bool


class RolloutOut(BaseModel):
    """A rollout as it is now."""

    id: str
    model: str
    from_release: str
    to_release: str
    strategy: str
    phase: Phase
    step: int
    steps: list[StepOut]
    weight: float = Field(description="The new release's share of the traffic now.")
    since: datetime
    started_at: datetime
    started_by: str
    ended_at: datetime | None
    moved_at: datetime | None = Field(description="When the traffic last changed.")
    stop: str | None = Field(description="paused, inconclusive, approval or decision: it waits for a person.")
    reason: str = Field(description="Why it is where it is.")
    waits: str = Field(description="What it waits for now.")
    note: str
    harmed: int = Field(description="Requests that the new release failed, or answered too slowly.")
    stable: SideOut
    candidate: SideOut
    mirrored: int
    gates: list[dict[str, Any]]
    verdicts: list[dict[str, Any]]
    evidence: list[dict[str, Any]]
    plan: dict[str, Any]


class EventOut(BaseModel):
    """Something that happened."""

    seq: int
    at: datetime
    kind: str
    text: str
    actor: str
    detail: dict[str, Any]


class LockOut(BaseModel):
    """A lock."""

    model: str
    message: str
    locked_by: str
    locked_at: datetime


def rollout_routes(service: RolloutService, authenticator: Authenticator, default_model: str) -> APIRouter:
    """`/admin/rollouts`."""
    router = APIRouter(prefix="/admin/rollouts", tags=["rollouts"], route_class=AdminRoute)
    _reading(router, service, authenticator, default_model)
    writer = Annotated[Principal, Depends(Needs(Permission.RELEASES_WRITE, authenticator))]

    @router.post("", status_code=201, summary="Begin a rollout")
    async def deploy(caller: writer, body: DeployIn, model: _Model = None) -> RolloutOut:
        """409 while another one runs, in a freeze, or under a lock; 404 for a release that cannot be had."""
        try:
            plan = parse(body.plan, "plan")
        except ConfigurationError as error:
            raise InvalidRequest(error.message, hint=error.hint, param="plan") from None
        made = await service.deploy(caller, model or default_model, body.release, plan, body.note, force=body.force)
        return _out(made)

    @router.post("/rollback", summary="Take the traffic back")
    async def rollback(caller: writer, body: RollbackIn, model: _Model = None) -> RolloutOut:
        """At once while the old release is warm; else it is loaded first. Needs no leader."""
        return _out(await service.rollback(caller, model or default_model, body.release, body.reason))

    @router.put("/lock", summary="Lock: nothing moves forward")
    async def lock(caller: writer, body: LockIn, model: _Model = None) -> LockOut:
        """What runs may still go back."""
        return _lock(await service.lock(caller, model or default_model, body.message))

    @router.delete("/lock", status_code=204, summary="Take the lock away")
    async def unlock(caller: writer, model: _Model = None) -> None:
        """409 where there is none."""
        await service.unlock(caller, model or default_model)

    @router.post("/{rollout_id}/{verb}", summary="Say something to a rollout")
    async def say(caller: writer, rollout_id: _Id, verb: Verb, body: SayIn, model: _Model = None) -> RolloutOut:
        """promote, pause, resume, abort, approve or rollback; `current` instead of an id is the one that runs."""
        told = await service.command(caller, model or default_model, rollout_id, verb, body.reason, full=body.full)
        return _out(told)

    return router


def _reading(router: APIRouter, service: RolloutService, authenticator: Authenticator, default_model: str) -> None:
    read = Depends(Needs(Permission.RELEASES_READ, authenticator))

    @router.get("", dependencies=[read], summary="List rollouts")
    async def listed(
        model: _Model = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 20,
        before: Annotated[AwareDatetime | None, Query(description="Started before.")] = None,
    ) -> list[RolloutOut]:
        """The newest first; without a model, of all."""
        return [_out(each) for each in await service.history(model, limit, before)]

    @router.get("/lock", dependencies=[read], summary="Show the lock")
    async def locked(model: _Model = None) -> LockOut | None:
        """null where there is none."""
        there = await service.locked(model or default_model)
        return _lock(there) if there is not None else None

    @router.get("/{rollout_id}", dependencies=[read], summary="Show a rollout")
    async def show(rollout_id: _Id, model: _Model = None) -> RolloutOut:
        """`current` instead of an id is the one that runs, else the newest."""
        return _out(await service.show(model or default_model, rollout_id))

    @router.get("/{rollout_id}/events", dependencies=[read], summary="What happened in a rollout")
    async def events(
        rollout_id: _Id, model: _Model = None, after: Annotated[int, Query(ge=0, le=2**63 - 1)] = 0
    ) -> list[EventOut]:
        """The oldest first."""
        found = await service.show(model or default_model, rollout_id)
        return [_event(each) for each in await service.events(found.id, after)]

    @router.get(
        "/{rollout_id}/report",
        dependencies=[read],
        summary="A report in Markdown",
        response_class=PlainTextResponse,
    )
    async def reported(rollout_id: _Id, model: _Model = None) -> PlainTextResponse:
        """With plots in SVG."""
        found = await service.show(model or default_model, rollout_id)
        return PlainTextResponse(report(found, await service.events(found.id)), media_type="text/markdown")


def _out(rollout: Rollout) -> RolloutOut:
    plan = rollout.plan.model_dump(mode="json")
    plan["webhooks"] = [{"host": hook.host, "shape": hook.shape} for hook in rollout.plan.webhooks]
    plan["gates"]["webhooks"] = [urlsplit(url).hostname for url in rollout.plan.gates.webhooks]
    figures = rollout.figures
    old = 0.0 if rollout.weight == 1 else 1.0 - rollout.weight
    return RolloutOut(
        id=rollout.id,
        model=rollout.model,
        from_release=rollout.from_release,
        to_release=rollout.to_release,
        strategy=rollout.plan.strategy.value,
        phase=rollout.phase,
        step=rollout.step,
        steps=[StepOut.model_validate(step.model_dump()) for step in rollout.steps],
        weight=rollout.weight,
        since=rollout.since,
        started_at=rollout.started_at,
        started_by=rollout.started_by,
        ended_at=rollout.ended_at,
        moved_at=rollout.moved_at,
        stop=rollout.stop.value if rollout.stop is not None else None,
        reason=rollout.reason,
        waits="" if rollout.phase.over else rollout.waits,
        note=rollout.note,
        harmed=figures.harmed,
        stable=_side(rollout.from_release, old, figures.stable),
        candidate=_side(rollout.to_release, rollout.weight, figures.candidate),
        mirrored=figures.mirrored,
        gates=[asdict(gate) for gate in rollout.gates],
        verdicts=list(rollout.verdicts),
        evidence=evidence_out(rollout),
        plan=plan,
    )


def _side(release: str, weight: float, side: Side) -> SideOut:
    return SideOut(
        release=release,
        weight=weight,
        requests=side.requests,
        failed=side.failed,
        slow=side.slow,
        ttft_p50_ms=side.ttft.at(0.5),
        ttft_p95_ms=side.ttft.at(0.95),
        token_p50_ms=side.token.at(0.5),
        scored=side.scored,
        score=side.score / side.scored if side.scored else None,
    )


def _event(event: Event) -> EventOut:
    return EventOut(
        seq=event.seq, at=event.at, kind=event.kind, text=event.text, actor=event.actor, detail=event.detail
    )


def _lock(lock: Lock) -> LockOut:
    return LockOut.model_validate(asdict(lock))

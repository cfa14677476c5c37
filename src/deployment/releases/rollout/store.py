"""Rollouts, what happened in them, the lock and the leader's fence. The only SQL for their tables."""

from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from deployment.database import Moment, metadata
from deployment.errors import Conflict
from deployment.releases.rollout.figures import figures_in, figures_out
from deployment.releases.rollout.model import GateOutcome, Phase, Rollout, Stop
from deployment.releases.rollout.plan import stored

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_rollouts = sa.Table(
    "rollouts",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("model", sa.String(80), nullable=False, index=True),
    sa.Column("from_release", sa.String(170), nullable=False),
    sa.Column("to_release", sa.String(170), nullable=False),
    sa.Column("phase", sa.String(16), nullable=False),
    sa.Column("started_at", Moment, nullable=False, index=True),
    sa.Column("ended_at", Moment, nullable=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("active", sa.String(80), nullable=True, unique=True),
    sa.Column("state", sa.Text, nullable=False),
)
"""`active` is the model's name while it runs: the database itself refuses a second one."""
_events = sa.Table(
    "rollout_events",
    metadata,
    sa.Column("seq", _NUMBER, primary_key=True, autoincrement=True),
    sa.Column("rollout", sa.String(64), nullable=False, index=True),
    sa.Column("at", Moment, nullable=False),
    sa.Column("kind", sa.String(40), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("told", sa.Boolean, nullable=False, index=True),
    sqlite_autoincrement=True,
)
_leader = sa.Table(
    "rollout_leader",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("holder", sa.String(100), nullable=False),
)
_locks = sa.Table(
    "rollout_locks",
    metadata,
    sa.Column("model", sa.String(80), primary_key=True),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("locked_by", sa.String(200), nullable=False),
    sa.Column("locked_at", Moment, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a rollout."""

    seq: int
    rollout: str
    at: datetime
    kind: str
    text: str
    actor: str
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Lock:
    """Nothing moves forward for a model until it is taken away."""

    model: str
    message: str
    locked_by: str
    locked_at: datetime


class Superseded(Conflict):
    """Another process leads the rollouts now."""


class RolloutStore:
    """Works inside the caller's transaction."""

    async def add(self, connection: AsyncConnection, rollout: Rollout) -> Rollout:
        """Begin one. Raises Conflict while another one of the model runs."""
        query = sa.select(_rollouts.c.id, _rollouts.c.to_release, _rollouts.c.phase)
        there = (await connection.execute(query.where(_rollouts.c.active == rollout.model))).first()
        if there is not None:
            raise _busy(rollout.model, there.id, there.to_release, there.phase)
        new = replace(rollout, revision=1)
        try:
            async with connection.begin_nested():
                await connection.execute(_rollouts.insert().values(id=new.id, **_row(new)))
        except sa.exc.IntegrityError:
            raise _busy(rollout.model, "another", "", "preparing") from None
        return new

    async def save(self, connection: AsyncConnection, rollout: Rollout) -> Rollout:
        """Write it down anew. Raises Conflict where it was changed meanwhile."""
        new = replace(rollout, revision=rollout.revision + 1)
        here = sa.and_(_rollouts.c.id == new.id, _rollouts.c.revision == rollout.revision)
        changed = await connection.execute(sa.update(_rollouts).where(here).values(**_row(new)))
        if not changed.rowcount:
            raise Conflict(f"The rollout {new.id} was changed meanwhile.", hint="Look at it again, then decide anew.")
        return new

    async def get(self, connection: AsyncConnection, rollout: str, *, lock: bool = False) -> Rollout | None:
        """One; with `lock` nobody else changes it until the transaction ends."""
        query = sa.select(_rollouts).where(_rollouts.c.id == rollout)
        row = (await connection.execute(query.with_for_update() if lock else query)).one_or_none()
        return _rollout(row) if row is not None else None

    async def active(self, connection: AsyncConnection, model: str, *, lock: bool = False) -> Rollout | None:
        """The one of a model that runs."""
        query = sa.select(_rollouts).where(_rollouts.c.active == model)
        row = (await connection.execute(query.with_for_update() if lock else query)).one_or_none()
        return _rollout(row) if row is not None else None

    async def running(self, connection: AsyncConnection) -> list[str]:
        """The ids of all that run."""
        query = sa.select(_rollouts.c.id).where(_rollouts.c.active.is_not(None)).order_by(_rollouts.c.started_at)
        return [row.id for row in await connection.execute(query)]

    async def history(
        self, connection: AsyncConnection, model: str | None, limit: int, before: datetime | None = None
    ) -> list[Rollout]:
        """The newest first."""
        query = sa.select(_rollouts).order_by(_rollouts.c.started_at.desc(), _rollouts.c.id).limit(limit)
        if model is not None:
            query = query.where(_rollouts.c.model == model)
        if before is not None:
            query = query.where(_rollouts.c.started_at < before)
        return [_rollout(row) for row in await connection.execute(query)]

    # --- events --------------------------------------------------------------------------------------------

    async def tell(self, connection: AsyncConnection, event: Event, *, told: bool) -> None:
        """Write down what happened; `told` = nobody outside waits for it. Its number is given here."""
        await connection.execute(
            _events.insert().values(
                rollout=event.rollout,
                at=event.at,
                kind=event.kind,
                text=event.text,
                actor=event.actor,
                detail=orjson.dumps(event.detail).decode(),
                told=told,
            )
        )

    async def events(self, connection: AsyncConnection, rollout: str, after: int = 0, limit: int = 1000) -> list[Event]:
        """What happened in a rollout, the oldest first."""
        query = sa.select(_events).where(_events.c.rollout == rollout, _events.c.seq > after)
        return [_event(row) for row in await connection.execute(query.order_by(_events.c.seq).limit(limit))]

    async def untold(self, connection: AsyncConnection, limit: int = 20) -> list[Event]:
        """What somebody outside waits for, the oldest first."""
        query = sa.select(_events).where(_events.c.told.is_(False)).order_by(_events.c.seq).limit(limit)
        return [_event(row) for row in await connection.execute(query)]

    async def note_told(self, connection: AsyncConnection, seq: int) -> None:
        """It was told, or given up."""
        await connection.execute(sa.update(_events).where(_events.c.seq == seq).values(told=True))

    # --- the lock ------------------------------------------------------------------------------------------

    async def locked(self, connection: AsyncConnection, model: str) -> Lock | None:
        """The model's lock, if there is one."""
        row = (await connection.execute(sa.select(_locks).where(_locks.c.model == model))).mappings().one_or_none()
        return Lock(**row) if row is not None else None

    async def put_lock(self, connection: AsyncConnection, lock: Lock) -> None:
        """Set it. Raises Conflict where there is one."""
        if (there := await self.locked(connection, lock.model)) is not None:
            raise Conflict(f"{there.locked_by} has locked it already: {there.message}", hint="`ramsey rollout unlock`.")
        await connection.execute(_locks.insert().values(**asdict(lock)))

    async def drop_lock(self, connection: AsyncConnection, model: str) -> None:
        """Take it away. Raises Conflict where there is none."""
        if not (await connection.execute(sa.delete(_locks).where(_locks.c.model == model))).rowcount:
            raise Conflict(f"{model} is not locked.")

    # --- the leader ----------------------------------------------------------------------------------------

    async def raise_fence(self, connection: AsyncConnection, holder: str) -> int:
        """A new leader: what an older one still tries to write is refused from now on."""
        raised = sa.update(_leader).values(fence=_leader.c.fence + 1, holder=holder).returning(_leader.c.fence)
        return int((await connection.execute(raised)).scalar_one())

    async def check_fence(self, connection: AsyncConnection, fence: int) -> None:
        """Hold the fence to the end of the transaction. Raises Superseded when a newer leader has raised it."""
        row = (await connection.execute(sa.select(_leader).with_for_update())).one()
        if row.fence != fence:
            raise Superseded(f"{row.holder} leads the rollouts now.")


def _busy(model: str, rollout: str, release: str, phase: str) -> Conflict:
    return Conflict(
        f"A rollout of {model} runs already: {rollout} {f'to {release} ' if release else ''}({phase}).",
        hint="`ramsey rollout watch` shows it; `ramsey rollout abort` ends it.",
    )


def _row(rollout: Rollout) -> dict[str, Any]:
    state = {
        "plan": rollout.plan.model_dump(mode="json"),
        "step": rollout.step,
        "since": rollout.since.isoformat(),
        "started_by": rollout.started_by,
        "reason": rollout.reason,
        "stop": rollout.stop.value if rollout.stop is not None else None,
        "note": rollout.note,
        "approved": sorted(rollout.approved),
        "gates": [asdict(gate) for gate in rollout.gates],
        "verdicts": list(rollout.verdicts),
        "judge": rollout.judge,
        "cursor": rollout.cursor,
        "votes": rollout.votes,
        "figures": figures_out(rollout.figures),
        "lost_before": rollout.lost_before,
        "waits": rollout.waits,
        "moved_at": rollout.moved_at.isoformat() if rollout.moved_at is not None else None,
    }
    return {
        "model": rollout.model,
        "from_release": rollout.from_release,
        "to_release": rollout.to_release,
        "phase": rollout.phase.value,
        "started_at": rollout.started_at,
        "ended_at": rollout.ended_at,
        "revision": rollout.revision,
        "active": None if rollout.phase.over else rollout.model,
        "state": orjson.dumps(state).decode(),
    }


def _rollout(row: Any) -> Rollout:
    state = orjson.loads(row.state)
    return Rollout(
        id=row.id,
        model=row.model,
        from_release=row.from_release,
        to_release=row.to_release,
        plan=stored(state["plan"]),
        phase=Phase(row.phase),
        step=state["step"],
        since=datetime.fromisoformat(state["since"]),
        started_at=row.started_at,
        started_by=state["started_by"],
        reason=state["reason"],
        ended_at=row.ended_at,
        stop=Stop(state["stop"]) if state["stop"] is not None else None,
        note=state["note"],
        approved=frozenset(state["approved"]),
        gates=tuple(GateOutcome(**gate) for gate in state["gates"]),
        verdicts=tuple(state["verdicts"]),
        judge=state["judge"],
        cursor=state["cursor"],
        votes=state["votes"],
        figures=figures_in(state["figures"]),
        lost_before=state.get("lost_before", 0),
        waits=state.get("waits", ""),
        moved_at=datetime.fromisoformat(state["moved_at"]) if state["moved_at"] is not None else None,
        revision=row.revision,
    )


def _event(row: Any) -> Event:
    return Event(row.seq, row.rollout, row.at, row.kind, row.text, row.actor, orjson.loads(row.detail))

"""Use cases of rollouts: begin one, say something to it, look at it. On any replica, without the leader."""

import secrets
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from datetime import datetime
from typing import Any, Protocol

from deployment.access import Act, Principal, record_acts
from deployment.clock import Clock
from deployment.database import Database
from deployment.errors import Conflict, InvalidRequest, NotFound
from deployment.releases.rollout.carry import Carrier
from deployment.releases.rollout.commands import Verb, commanded
from deployment.releases.rollout.decide import apply
from deployment.releases.rollout.freeze import frozen
from deployment.releases.rollout.judging import began
from deployment.releases.rollout.model import Phase, Rollout
from deployment.releases.rollout.plan import Plan, Strategy
from deployment.releases.rollout.store import Event, Lock, RolloutStore
from deployment.releases.traffic import Split, TrafficStore

CURRENT = "current"
"""Instead of an id: the rollout that runs, else the newest."""
_KINDS = {
    Verb.PROMOTE: "promoted",
    Verb.PAUSE: "paused",
    Verb.RESUME: "resumed",
    Verb.ABORT: "aborted",
    Verb.APPROVE: "approved",
    Verb.ROLLBACK: "rolled_back",
}


class Known(Protocol):
    """Who knows which releases can be had."""

    async def obstacle(self, release: str, *, back: bool = False) -> tuple[str, str] | None:
        """Why a release cannot be brought onto the nodes, and the next step; None where it can.

        `back` = it shall have all traffic at once.
        """
        ...


class RolloutService:
    """What people do.

    `hosts` are those that webhooks may call; `nudge` lets this process take in changed traffic at once; `wake` the
    controller, if it leads; `ended` is told of a rollout that a person ended.
    """

    def __init__(
        self,
        database: Database,
        store: RolloutStore,
        traffic: TrafficStore,
        known: Known,
        clock: Clock,
        hosts: Collection[str],
        nudge: Callable[[], Awaitable[None]],
        wake: Callable[[], None],
        ended: Callable[[Rollout], None],
    ) -> None:
        self._database, self._store, self._traffic = database, store, traffic
        self._known, self._clock, self._nudge, self._wake = known, clock, nudge, wake
        self._ended = ended
        self._hosts = {host.lower() for host in hosts}
        self._carrier = Carrier(store, traffic, clock)

    # --- begin ---------------------------------------------------------------------------------------------

    async def deploy(
        self, actor: Principal, model: str, version: str, plan: Plan, note: str = "", *, force: bool = False
    ) -> Rollout:
        """Begin to move a model's traffic to a release. A kept-warm rollout before it ends well.

        `force` passes a freeze window by, never a lock. Raises NotFound for a release that cannot be had, Conflict
        while another rollout runs, in a freeze, and where the release has all traffic already.
        """
        release = release_name(model, version)
        for hook in plan.webhooks:
            if hook.host not in self._hosts:
                raise InvalidRequest(
                    f"The webhook's host {hook.host} may not be called.",
                    hint=f'Allow it in the settings of the gateways: releases.webhook_hosts = ["{hook.host}"].',
                    param="plan.webhooks",
                )
        if (obstacle := await self._known.obstacle(release)) is not None:
            raise NotFound(obstacle[0], hint=obstacle[1])
        now = self._clock.now()
        if not force and (window := frozen(plan, now)) is not None:
            raise Conflict(window, hint="Wait, or say --force.")
        async with self._database.write() as connection:
            await self._end_bake(connection, model, release, actor, now)
            split = await self._split(connection, model)
            if (lock := await self._store.locked(connection, model)) is not None:
                raise _locked(lock)
            rollout = _new(model, split, release, plan, note, actor, now)
            if force:
                rollout = replace(rollout, plan=plan.model_copy(update={"freeze": type(plan.freeze)()}))
            rollout = await self._carrier.begin(connection, rollout, actor)
        await self._told()
        return rollout

    async def _end_bake(self, connection: Any, model: str, release: str, actor: Principal, now: datetime) -> None:
        """A new rollout ends one that only keeps its old release warm."""
        there = await self._store.active(connection, model, lock=True)
        if there is None or there.phase is not Phase.BAKE:
            return
        if release == there.from_release:
            raise Conflict(f"{release} is still warm.", hint="`ramsey rollback` brings it back at once.")
        if release == there.to_release:
            raise Conflict(f"{release} has all traffic already.", hint="`ramsey rollout history` says since when.")
        ended = apply(there, commanded(there, Verb.PROMOTE, actor.name, f"{release} is next"), now)
        await self._carrier.change(connection, ended, "done", actor)

    async def rollback(self, actor: Principal, model: str, version: str | None = None, reason: str = "") -> Rollout:
        """Take the traffic back: at once while the old release is warm, else as soon as it is loaded.

        Without a version, to the release before. Raises Conflict where there is none before, NotFound where the
        release is on no node any more.
        """
        wanted = release_name(model, version) if version is not None else None
        async with self._database.write() as connection:
            running = await self._store.active(connection, model, lock=True)
            if running is not None and wanted in (None, running.from_release):
                decision = commanded(running, Verb.ROLLBACK, actor.name, reason)
                after = apply(running, decision, self._clock.now())
                after = await self._carrier.change(connection, after, "rolled_back", actor)
        if running is not None and wanted in (None, running.from_release):
            await self._told(after)
            return after
        if running is not None:
            raise Conflict(
                f"A rollout from {running.from_release} to {running.to_release} runs.",
                hint="`ramsey rollback` without a version ends it; then roll back further.",
            )
        return await self._back_cold(actor, model, wanted, reason)

    async def _back_cold(self, actor: Principal, model: str, wanted: str | None, reason: str) -> Rollout:
        """To a release without a share: it is loaded first, then gets all traffic at once."""
        async with self._database.read() as connection:
            before = [each for each in await self._store.history(connection, model, 50) if each.phase is Phase.DONE]
            split = await self._split(connection, model)
        if wanted is None:
            last = next((each for each in before if each.to_release == split.main and each.steps), None)
            if last is None:
                raise Conflict(
                    f"No rollout led to {split.main}: there is nothing to go back to.",
                    hint="Name a version: ramsey rollback v1.0.",
                )
            wanted = last.from_release
        if (obstacle := await self._known.obstacle(wanted, back=True)) is not None:
            raise NotFound(obstacle[0], hint=obstacle[1])
        plan = Plan.model_validate(
            {
                "strategy": Strategy.BLUE_GREEN,
                "keep_warm": 0,
                "prepare_timeout": 600,
                "gates": {"skip": ["memory", "smoke", "evaluation"]},
                "probes": {"rate": 0},
            }
        )
        now = self._clock.now()
        async with self._database.write() as connection:
            split = await self._split(connection, model)
            rollout = _new(model, split, wanted, plan, reason, actor, now)
            rollout = replace(rollout, reason=f"{actor.name} goes back to {wanted}{f': {reason}' if reason else ''}.")
            rollout = await self._carrier.begin(connection, rollout, actor)
        await self._told()
        return rollout

    # --- say something -------------------------------------------------------------------------------------

    async def command(
        self, actor: Principal, model: str, rollout_id: str, verb: Verb, reason: str = "", *, full: bool = False
    ) -> Rollout:
        """Promote, pause, resume, abort, approve or roll back. Raises Conflict with the next step."""
        async with self._database.write() as connection:
            rollout = await self._locked_row(connection, model, rollout_id)
            if verb is Verb.PROMOTE and (lock := await self._store.locked(connection, rollout.model)) is not None:
                raise _locked(lock)
            decision = commanded(rollout, verb, actor.name, reason, full=full)
            after = began(rollout, apply(rollout, decision, self._clock.now()))
            after = await self._carrier.change(connection, after, _KINDS[verb], actor)
        await self._told(after)
        return after

    async def lock(self, actor: Principal, model: str, message: str) -> Lock:
        """Nothing moves forward from now on, and everybody sees why. What runs may still go back."""
        if not message.strip():
            raise InvalidRequest("Say why it is locked.", hint='ramsey rollout lock "why"', param="message")
        lock = Lock(model, message.strip(), actor.name, self._clock.now())
        async with self._database.write() as connection:
            await self._split(connection, model)
            detail = {"before": _lock_told(await self._store.locked(connection, model)), "after": _lock_told(lock)}
            await self._store.put_lock(connection, lock)
            await self._record(connection, actor, "rollout.lock", model, detail)
        return lock

    async def unlock(self, actor: Principal, model: str) -> None:
        """Let things move again."""
        async with self._database.write() as connection:
            detail = {"before": _lock_told(await self._store.locked(connection, model))}
            await self._store.drop_lock(connection, model)
            await self._record(connection, actor, "rollout.unlock", model, detail)
        self._wake()

    # --- look ----------------------------------------------------------------------------------------------

    async def show(self, model: str, rollout_id: str) -> Rollout:
        """One rollout. Raises NotFound."""
        async with self._database.read() as connection:
            found = await self._find(connection, model, rollout_id)
        if found is None:
            raise _none(rollout_id)
        return found

    async def history(self, model: str | None, limit: int, before: datetime | None = None) -> list[Rollout]:
        """The newest first."""
        async with self._database.read() as connection:
            return await self._store.history(connection, model, limit, before)

    async def events(self, rollout_id: str, after: int = 0) -> list[Event]:
        """What happened in a rollout, the oldest first."""
        async with self._database.read() as connection:
            return await self._store.events(connection, rollout_id, after)

    async def locked(self, model: str) -> Lock | None:
        """The model's lock."""
        async with self._database.read() as connection:
            return await self._store.locked(connection, model)

    async def _find(self, connection: Any, model: str, rollout_id: str) -> Rollout | None:
        if rollout_id != CURRENT:
            return await self._store.get(connection, rollout_id)
        running = await self._store.active(connection, model)
        return running or next(iter(await self._store.history(connection, model, 1)), None)

    async def _locked_row(self, connection: Any, model: str, rollout_id: str) -> Rollout:
        if rollout_id != CURRENT:
            found = await self._store.get(connection, rollout_id, lock=True)
        else:
            found = await self._store.active(connection, model, lock=True)
        if found is None:
            raise _none(rollout_id)
        return found

    async def _split(self, connection: Any, model: str) -> Split:
        split = await self._traffic.get(connection, model)
        if split is None:
            raise NotFound(f"{model[:80]!r} has no traffic.", hint="`ramsey models` shows what is served.")
        return split

    async def _record(self, connection: Any, actor: Principal, action: str, model: str, detail: dict[str, Any]) -> None:
        await record_acts(connection, [Act(self._clock.now(), actor, action, model, detail)])

    async def _told(self, changed: Rollout | None = None) -> None:
        if changed is not None and changed.phase.over:
            self._ended(changed)
        await self._nudge()
        self._wake()


def release_name(model: str, version: str) -> str:
    """`v1.1` or `ramsey-model:v1.1` as the whole name. Raises InvalidRequest for another model's."""
    name, colon, tag = version.rpartition(":")
    if colon and name != model:
        raise InvalidRequest(f"{version[:80]!r} is no release of {model}.", param="release")
    return f"{model}:{tag}"


def _new(model: str, split: Split, release: str, plan: Plan, note: str, actor: Principal, now: datetime) -> Rollout:
    if split.weight(split.main) < 1:
        raise Conflict(
            f"The traffic of {model} is divided by hand.",
            hint=f"Give one release all of it first: ramsey traffic set {split.main}=100%.",
        )
    if release == split.main:
        raise Conflict(f"{release} has all traffic already.", hint="`ramsey rollout history` says since when.")
    return Rollout(
        id=f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}",
        model=model,
        from_release=split.main,
        to_release=release,
        plan=plan,
        phase=Phase.PREPARING,
        step=0,
        since=now,
        started_at=now,
        started_by=actor.name,
        reason=f"{actor.name} deploys {release} ({plan.strategy.value}).",
        note=note,
    )


def _locked(lock: Lock) -> Conflict:
    return Conflict(
        f"Locked by {lock.locked_by} since {lock.locked_at:%Y-%m-%d %H:%M} UTC: {lock.message}",
        hint="`ramsey rollout unlock` takes the lock away.",
    )


def _lock_told(lock: Lock | None) -> dict[str, Any]:
    """For the record."""
    return {"message": lock.message, "locked_by": lock.locked_by} if lock is not None else {}


def _none(rollout_id: str) -> NotFound:
    if rollout_id == CURRENT:
        return NotFound("No rollout runs.", hint="`ramsey deploy VERSION` begins one.")
    return NotFound(f"There is no rollout {rollout_id[:64]!r}.", hint="`ramsey rollout history` lists them.")

"""Carries a decision out: rollout, traffic, event and audit entry in one transaction, or none of them."""

from dataclasses import replace
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from deployment.access import LOCAL_OPERATOR, Act, Principal, record_acts
from deployment.clock import Clock
from deployment.errors import NotFound
from deployment.releases.rollout.model import Rollout, wanted_split
from deployment.releases.rollout.store import Event, RolloutStore
from deployment.releases.traffic import Split, TrafficStore

CONTROLLER = replace(LOCAL_OPERATOR, id="rollouts", name="the rollout controller")
"""Who acts when nobody said so."""


class Carrier:
    """Works inside the caller's transaction."""

    def __init__(self, store: RolloutStore, traffic: TrafficStore, clock: Clock) -> None:
        self._store, self._traffic, self._clock = store, traffic, clock

    async def begin(self, connection: AsyncConnection, rollout: Rollout, actor: Principal) -> Rollout:
        """Write a new rollout down. Raises Conflict while another one runs."""
        new = await self._store.add(connection, rollout)
        return await self._settle(connection, new, "started", actor)

    async def change(self, connection: AsyncConnection, after: Rollout, kind: str, actor: Principal) -> Rollout:
        """Write a changed rollout down. Raises Conflict where somebody was faster."""
        saved = await self._store.save(connection, after)
        return await self._settle(connection, saved, kind, actor)

    async def _settle(self, connection: AsyncConnection, rollout: Rollout, kind: str, actor: Principal) -> Rollout:
        now = self._clock.now()
        before = await self._traffic.get(connection, rollout.model)
        if before is None:
            raise NotFound(f"{rollout.model} has no traffic.", hint="`ramsey status` says what it waits for.")
        wanted = replace(wanted_split(rollout, before), set_by=actor.id[:200])
        if _moves(before, wanted):
            await self._traffic.put(connection, wanted, expected_version=before.version)
        if _weights(before) != _weights(wanted):
            rollout = await self._store.save(connection, replace(rollout, moved_at=now))
        detail: dict[str, Any] = {
            "model": rollout.model,
            "from": rollout.from_release,
            "to": rollout.to_release,
            "phase": rollout.phase.value,
            "weight": rollout.weight,
            "stop": rollout.stop.value if rollout.stop is not None else None,
            "harmed": rollout.figures.harmed,
        }
        event = Event(0, rollout.id, now, kind, rollout.reason, actor.name, detail)
        await self._store.tell(connection, event, told=not rollout.plan.webhooks)
        acted = {"before": _weights(before), "after": _weights(wanted), "reason": rollout.reason}
        await record_acts(
            connection, [Act(now, actor, f"rollout.{kind}", rollout.id, acted | {"to": rollout.to_release})]
        )
        return rollout


def _weights(split: Split) -> dict[str, float]:
    return {share.release: share.weight for share in split.shares}


def _moves(before: Split, wanted: Split) -> bool:
    """Whether anything of it differs but who set it, and why."""
    return replace(wanted, set_by=before.set_by, reason=before.reason) != before

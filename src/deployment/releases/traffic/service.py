"""Use cases of traffic: look at it, change it, know who has it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from deployment.access import Act, Principal, record_acts
from deployment.clock import Clock
from deployment.database import Database
from deployment.engines import NodeState, NodeView
from deployment.errors import Conflict, NotFound
from deployment.releases.traffic.documents import to_document
from deployment.releases.traffic.model import Split, check
from deployment.releases.traffic.store import GatewayRow, GatewayStore, TrafficStore
from deployment.releases.traffic.sync import TrafficSync
from deployment.releases.traffic.table import Traffic


class Nodes(Protocol):
    """Who knows what nodes hold."""

    def view(self) -> list[NodeView]:
        """Every node as it is now."""
        ...


class TrafficService:
    """What administrators and the rollout controller do."""

    def __init__(
        self,
        database: Database,
        store: TrafficStore,
        gateways: GatewayStore,
        traffic: Traffic,
        sync: TrafficSync,
        nodes: Nodes,
        clock: Clock,
    ) -> None:
        self._database, self._store, self._gateways = database, store, gateways
        self._traffic, self._sync, self._nodes, self._clock = traffic, sync, nodes, clock

    async def all(self) -> list[Split]:
        """Every model's split, as it is kept."""
        async with self._database.read() as connection:
            return await self._store.all(connection)

    async def get(self, model: str) -> Split:
        """One model's. Raises NotFound."""
        async with self._database.read() as connection:
            split = await self._store.get(connection, model)
        if split is None:
            raise _no_model(model, [each.model for each in await self.all()])
        return split

    async def set(self, split: Split, actor: Principal, expected_version: int | None = None) -> Split:
        """Change a model's traffic by hand. It is here when this returns, and everywhere within a second.

        Raises NotFound for a model that is not served, Conflict while a rollout runs, for another version than
        expected, and for a release that no node can answer for; InvalidRequest for what makes no sense.
        """
        check(split)
        nodes = self._nodes.view()
        for share in split.shares:
            if share.release in split.callable and not held(share.release, share.nodes, nodes):
                raise Conflict(
                    f"No healthy node that it belongs to holds {share.release}: nobody could answer.",
                    hint="`ramsey nodes list` and `ramsey models` show what there is.",
                )
        async with self._database.write() as connection:
            before = await self._store.get(connection, split.model)
            if before is None:
                raise _no_model(split.model, list(self._traffic.table))
            if before.rollout is not None:
                raise Conflict(
                    f"The rollout {before.rollout} moves the traffic of {split.model}.",
                    hint="Abort it first: ramsey rollout abort.",
                )
            wish = replace(split, set_by=actor.id, salt=split.salt or before.salt)
            after = await self._store.put(connection, wish, expected_version=expected_version)
            detail = {"before": _told(before), "after": _told(after), "reason": after.reason}
            await record_acts(connection, [Act(self._clock.now(), actor, "traffic.set", split.model, detail)])
        await self._sync.refresh()
        return after

    async def gateways(self) -> list[GatewayRow]:
        """The gateways that live."""
        async with self._database.read() as connection:
            return await self._gateways.alive(connection)

    async def nudge(self) -> None:
        """This process takes in what changed, at once."""
        await self._sync.refresh()


def held(release: str, labels: Mapping[str, str], nodes: list[NodeView]) -> bool:
    """Whether a node that answers, and that the release belongs to, holds it."""
    return any(
        node.state is NodeState.HEALTHY
        and labels.items() <= node.labels.items()
        and any(each.release == release and each.present for each in node.releases)
        for node in nodes
    )


def _told(split: Split) -> dict[str, Any]:
    """For the record: without what is empty."""
    return {name: value for name, value in (to_document(split) | {"version": split.version}).items() if value}


def _no_model(model: str, models: list[str]) -> NotFound:
    return NotFound(f"{model[:80]!r} has no traffic.", hint=f"Models: {', '.join(sorted(models)) or 'none yet'}.")

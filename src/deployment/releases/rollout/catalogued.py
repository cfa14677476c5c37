"""The rollouts' questions, put to the catalogue: bring a release onto nodes, check it, ask it what is known.

A release that the catalogue does not keep, but nodes hold, can be rolled out too: what needs its weights is left out.
"""

from collections.abc import Sequence

from deployment.clock import Clock
from deployment.engines import EnginePool, NodeView
from deployment.errors import RamseyError
from deployment.releases.catalogue import CatalogueRoom, GateWish, Question, evaluate
from deployment.releases.rollout.activities import holds
from deployment.releases.rollout.carry import CONTROLLER
from deployment.releases.rollout.model import GateOutcome, Rollout

_MAKE = "Make it: ramsey release create MODELFILE --version {tag}. `ramsey releases` lists what there is."


class FromCatalogue:
    """Everything that rollouts want of releases."""

    def __init__(self, room: CatalogueRoom, pool: EnginePool, clock: Clock) -> None:
        self._room, self._pool, self._clock = room, pool, clock

    async def obstacle(self, release: str, *, back: bool = False) -> tuple[str, str] | None:
        """Why it cannot be had, and the next step; `back` = it shall have all traffic at once, without gates."""
        entry = await self._room.catalogue.find(release)
        tag = release.partition(":")[2]
        if entry is None:
            if any(holds(node, release) for node in self._pool.view()):
                return None
            return f"There is no release {release}.", _MAKE.format(tag=tag)
        if entry.deleted_at is not None:
            gone = f"{release} was deleted on {entry.deleted_at:%Y-%m-%d %H:%M} UTC."
            return gone, f"Create it again from the same Modelfile: ramsey release create MODELFILE --version {tag}."
        if back and entry.pruned_at is not None:
            pruned = f"{release} was taken off the nodes on {entry.pruned_at:%Y-%m-%d %H:%M} UTC to save their disks."
            return pruned, f"Bring it back, through its gates: ramsey deploy {tag} --strategy blue-green."
        return None

    async def place(self, release: str, nodes: Sequence[NodeView]) -> dict[str, str]:
        """Bring it onto nodes; where that failed, and why."""
        if await self._room.catalogue.find(release) is None:
            await self._pool.check()
            now = {node.name: node for node in self._pool.view()}
            lacking = [node.name for node in nodes if node.name in now and not holds(now[node.name], release)]
            return dict.fromkeys(lacking, f"it does not hold {release}, and the catalogue does not keep it.")
        reports = await self._room.place(release, nodes)
        return {name: report.problem or "it failed." for name, report in reports.items() if not report.ok}

    async def check(self, rollout: Rollout, nodes: Sequence[NodeView]) -> tuple[GateOutcome, ...]:
        """What every gate says, up to the first that is closed."""
        gates = rollout.plan.gates
        if await self._room.catalogue.find(rollout.to_release) is None:
            return await self._loaded(rollout, nodes)
        cold = rollout.plan.strategy.cold
        wish = GateWish(
            skip={*gates.skip, *(("load", "memory", "smoke", "evaluation") if cold else ())},
            smoke=gates.smoke,
            floor=gates.floor,
            margin=gates.margin,
            webhooks=gates.webhooks,
            commands=gates.commands,
        )
        results = await self._room.check(rollout.to_release, nodes, rollout.from_release, wish)
        return tuple(GateOutcome(each.name, each.passed, each.reason) for each in results)

    async def _loaded(self, rollout: Rollout, nodes: Sequence[NodeView]) -> tuple[GateOutcome, ...]:
        if rollout.plan.strategy.cold or "load" in rollout.plan.gates.skip:
            return ()
        loads = await self._pool.load(rollout.to_release, {node.name for node in nodes})
        failed = {name: error for name, error in loads.items() if error is not None}
        told = " ".join(f"{name}: {error.message}" for name, error in failed.items())
        return (GateOutcome("load", not failed, told or f"{len(loads)} nodes loaded it."),)

    async def tidy(self) -> None:
        """All but the newest, and never one with traffic or kept warm."""
        await self._room.prune(CONTROLLER)

    async def load(self, rollout: Rollout) -> Sequence[Question]:
        """The evaluation set of the settings."""
        return await self._room.questions()

    async def score(self, release: str, question: Question) -> float | None:
        """1 for a right answer, 0 for a wrong one, None where none came."""
        try:
            return (await evaluate(self._pool, release, [question], self._clock)).accuracy
        except RamseyError:
            return None  # errors are judged where callers see them

"""The rollouts' questions where there is no catalogue entry of a release: what nodes hold already."""

from collections.abc import Sequence

from deployment.engines import EnginePool, NodeView
from deployment.releases.rollout.activities import holds
from deployment.releases.rollout.model import GateOutcome, Rollout


class HeldOnNodes:
    """A release that somebody else brought onto the nodes."""

    def __init__(self, pool: EnginePool) -> None:
        self._pool = pool

    async def obstacle(self, release: str) -> tuple[str, str] | None:
        """None where a node holds it."""
        if any(holds(node, release) for node in self._pool.view()):
            return None
        return f"There is no release {release}.", "Make one: ramsey release create MODELFILE --version v1.2."

    async def place(self, release: str, nodes: Sequence[NodeView]) -> dict[str, str]:
        """The nodes that do not hold it."""
        await self._pool.check()
        now = {node.name: node for node in self._pool.view()}
        return {
            n.name: f"it does not hold {release}." for n in nodes if n.name in now and not holds(now[n.name], release)
        }

    async def check(self, rollout: Rollout, nodes: Sequence[NodeView]) -> tuple[GateOutcome, ...]:
        """No gate."""
        return ()

    async def load(self, rollout: Rollout) -> Sequence[object]:
        """No question."""
        return ()

    async def score(self, release: str, question: object) -> float | None:
        """Never asked."""
        return None

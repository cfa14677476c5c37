"""One node after the other."""

from collections.abc import Sequence

from deployment.engines.placement import Ask, Candidate


class RoundRobin:
    """The one whose last turn is longest ago."""

    patient = False

    def rank(self, candidates: Sequence[Candidate], ask: Ask) -> list[float]:
        """When it was last chosen."""
        return [float(c.picked_last) for c in candidates]

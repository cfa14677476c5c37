"""The node with the fewest requests for its slots."""

from collections.abc import Sequence

from deployment.engines.placement import Ask, Candidate


class LeastOutstanding:
    """Requests in flight over slots."""

    patient = False

    def rank(self, candidates: Sequence[Candidate], ask: Ask) -> list[float]:
        """The share of the slots that is taken."""
        return [c.in_flight / c.slots for c in candidates]

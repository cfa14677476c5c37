"""Requests in proportion to the nodes' weights."""

from collections.abc import Sequence

from deployment.engines.placement import Ask, Candidate


class Weighted:
    """The one that is furthest behind its share, as if it had this request already."""

    patient = False

    def rank(self, candidates: Sequence[Candidate], ask: Ask) -> list[float]:
        """Requests over weight, after this one."""
        return [c.picked + 1.0 / c.weight for c in candidates]

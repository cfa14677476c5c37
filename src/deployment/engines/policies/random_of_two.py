"""The less loaded of two drawn by chance (Mitzenmacher 2001): good without any exact count."""

import random
from collections.abc import Sequence

from deployment.engines.placement import Ask, Candidate


class RandomOfTwo:
    """For many gateways that don't see each other's requests: they don't all choose the same node."""

    patient = False

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def rank(self, candidates: Sequence[Candidate], ask: Ask) -> list[float]:
        """The share of the slots that is taken; those not drawn are last."""
        drawn = set(self._rng.sample(range(len(candidates)), min(2, len(candidates))))
        return [c.in_flight / c.slots if i in drawn else float("inf") for i, c in enumerate(candidates)]

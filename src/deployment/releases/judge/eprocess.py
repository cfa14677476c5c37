"""Tests that may be looked at after every sample: their evidence against a hypothesis is a fair bet against it.

While the hypothesis holds, the chance that the evidence ever reaches 1/alpha is at most alpha (Ville's inequality).
"""

import math
from collections.abc import Sequence


def mean_exp(logs: Sequence[float]) -> float:
    """The mean of e to each of these, without overflow on the way; at most 1e300."""
    top = max(logs)
    log = top + math.log(sum(math.exp(each - top) for each in logs) / len(logs))
    return math.exp(min(log, 690.0))


def share_evidence(hits: int, samples: int, null: float, alternatives: Sequence[float]) -> float:
    """Evidence that the chance of a hit is beyond `null`, on the side of the alternatives.

    A mixture of likelihood ratios. With every alternative above `null` it is a bet against each chance at or
    below it; with every one below, against each at or above: the ratio's expectation is monotone in the chance.
    """
    misses = samples - hits
    return mean_exp(
        [hits * math.log(q / null) + misses * math.log((1.0 - q) / (1.0 - null)) for q in alternatives],
    )

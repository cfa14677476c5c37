"""Is traffic divided as it was told to be? If not, the two sides cannot be compared."""

import math


def ratio_evidence(hits: int, samples: int, share: float) -> float:
    """Evidence that the chance of a hit is not `share`.

    A Beta prior around `share` against `share` itself; Lindon and Malek, NeurIPS 2022 (arXiv 2011.03567), for two
    sides. Valid at every look.
    """
    a, b = _PRIOR * share, _PRIOR * (1.0 - share)
    log = _log_beta(a + hits, b + samples - hits) - _log_beta(a, b)
    log -= hits * math.log(share) + (samples - hits) * math.log(1.0 - share)
    return math.exp(min(log, 690.0))


_PRIOR = 100.0  # as strong as so many requests: shares that are a little off are what happens


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

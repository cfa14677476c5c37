"""Does the candidate fail more requests than the stable side, or too many by itself? And is it surely below that?"""

import math
from dataclasses import dataclass, field

from deployment.releases.judge.eprocess import mean_exp, share_evidence

RATIOS = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
_SMALLEST = 1e-6  # a share beyond it would be rounded to all or nothing
_TOO_MANY = (1.2, 1.6, 2.0, 3.0, 5.0, 8.0, 12.0, 16.0)  # times the tolerated share, up to nearly all
_FEW_ENOUGH = (0.02, 0.1, 0.2, 0.3, 0.5)  # times the limit


@dataclass(slots=True)
class Regression:
    """More errors than the stable side: the bet is on which side an error falls, given that there is one.

    Lindon, Sanden and Shirikian, KDD 2022 (arXiv 2205.14762). Valid for every ratio of error rates up to 1, and
    across changes of weight and of traffic, for only the weight at a request's arrival counts.
    """

    logs: list[float] = field(default_factory=lambda: [0.0] * len(RATIOS))

    def error(self, *, candidate: bool, weight: float) -> None:
        """A request failed that had, when it arrived, the chance `weight` of the candidate."""
        if not 0.0 < weight < 1.0:
            return  # there was no choice: it tells nothing of a difference
        weight = min(max(weight, _SMALLEST), 1.0 - _SMALLEST)
        for i, ratio in enumerate(RATIOS):
            expected = weight * ratio / (weight * ratio + 1.0 - weight)
            self.logs[i] += math.log(expected / weight if candidate else (1.0 - expected) / (1.0 - weight))

    @property
    def evidence(self) -> float:
        """Fails at 1/alpha."""
        return mean_exp(self.logs)


@dataclass(slots=True)
class Rate:
    """Failed requests of one side."""

    requests: int = 0
    failed: int = 0

    def add(self, *, failed: bool) -> None:
        """One more request."""
        self.requests += 1
        self.failed += failed

    @property
    def share(self) -> float | None:
        """The share that failed."""
        return self.failed / self.requests if self.requests else None

    def too_many(self, limit: float) -> float:
        """Evidence that more than half of `limit` fail. (A test against `limit` itself has no power at it.)"""
        null = limit / 2.0
        spread = [min(null * times, 0.5 + null / 2) for times in _TOO_MANY] + [0.95]
        return share_evidence(self.failed, self.requests, null, spread)

    def few_enough(self, limit: float) -> float:
        """Evidence that fewer than `limit` fail."""
        return share_evidence(self.failed, self.requests, limit, [limit * times for times in _FEW_ENOUGH])

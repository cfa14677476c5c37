"""Do the candidate's answers score lower? Bets on pairs of scores.

Waudby-Smith and Ramdas, *Estimating means of bounded random variables by betting* (arXiv 2010.09686): the margin is
outside the confidence sequence of the difference exactly when one of the two bets here has won. No normality, and
valid from the first pair.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from deployment.releases.judge.eprocess import mean_exp

_STAKES = (0.05, 0.1, 0.2, 0.4, 0.8)
_WAITING = 256


@dataclass(slots=True)
class Scores:
    """Scores of both sides, 0 to 1, paired in the order in which they come."""

    margin: float
    worse: list[float] = field(default_factory=lambda: [0.0] * len(_STAKES))
    """Logs of the bets that the candidate is worse by more than the margin."""
    close: list[float] = field(default_factory=lambda: [0.0] * len(_STAKES))
    """And that it is not."""
    pairs: int = 0
    counts: list[int] = field(default_factory=lambda: [0, 0])
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0])
    waiting: list[float] = field(default_factory=list)
    waiting_candidate: bool = False

    def add(self, score: float, *, candidate: bool) -> None:
        """One scored answer."""
        self.counts[candidate] += 1
        self.sums[candidate] += score
        if not self.waiting or self.waiting_candidate == candidate:
            self.waiting_candidate = candidate
            self.waiting.append(score)
            del self.waiting[:-_WAITING]
            return
        partner = self.waiting.pop(0)
        self._bet(score - partner if candidate else partner - score)

    def _bet(self, difference: float) -> None:
        self.pairs += 1
        beyond = difference + self.margin
        for i, stake in enumerate(_STAKES):
            # |beyond| <= 1 + margin: the stake is scaled so that no bet can lose everything.
            part = stake / (1.0 + self.margin)
            self.worse[i] += math.log1p(-part * beyond)
            self.close[i] += math.log1p(part * beyond)

    @property
    def difference(self) -> float | None:
        """The candidate's mean less the stable side's."""
        if not all(self.counts):
            return None
        return self.sums[True] / self.counts[True] - self.sums[False] / self.counts[False]

    @property
    def evidence(self) -> float:
        """That it is worse by more than the margin."""
        return mean_exp(self.worse)

    @property
    def evidence_for(self) -> float:
        """That it is not."""
        return mean_exp(self.close)

    def state(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "worse": self.worse,
            "close": self.close,
            "pairs": self.pairs,
            "counts": self.counts,
            "sums": self.sums,
            "waiting": self.waiting,
            "waiting_candidate": self.waiting_candidate,
        }

    @classmethod
    def load(cls, state: dict[str, Any], margin: float) -> "Scores":
        """What `state` told."""
        return cls(margin, **state)

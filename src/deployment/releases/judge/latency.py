"""Is the candidate as much slower as is too slow? Like is paired with like."""

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from deployment.releases.judge.eprocess import share_evidence

SLOWER = 1.5
"""A pair speaks against the candidate when it took more than so many times the stable one's."""
_ALTERNATIVES = (0.58, 0.66, 0.76, 0.86, 0.95)
_WAITING = 8  # answers of one kind that wait for a partner
_KINDS = 64
_BASE = 1.05

Kind = tuple[str, int]


@dataclass(slots=True)
class Times:
    """Times in milliseconds, counted in buckets that grow by 5 %."""

    buckets: dict[int, int] = field(default_factory=dict)

    def add(self, milliseconds: float) -> None:
        """One more."""
        bucket = math.floor(math.log(min(max(milliseconds, 0.01), 1e8), _BASE))
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1

    @property
    def median(self) -> float | None:
        """Interpolated within its bucket; None without any."""
        half = sum(self.buckets.values()) / 2
        for bucket in sorted(self.buckets):
            count = self.buckets[bucket]
            if half <= count:
                return float(_BASE ** (bucket + half / count))
            half -= count
        return None


@dataclass(slots=True)
class Pairs:
    """One measure. Each answer of the candidate waits for the next stable one of its kind."""

    pairs: int = 0
    slower: int = 0
    candidate: Times = field(default_factory=Times)
    stable: Times = field(default_factory=Times)
    waiting: "OrderedDict[Kind, list[float]]" = field(default_factory=OrderedDict)

    def add(self, kind: Kind, milliseconds: float, *, candidate: bool) -> None:
        """One answer."""
        if candidate:
            line = self.waiting.setdefault(kind, [])
            line.append(milliseconds)
            del line[:-_WAITING]
            self.waiting.move_to_end(kind)
            if len(self.waiting) > _KINDS:
                self.waiting.popitem(last=False)
        elif line := self.waiting.get(kind, []):
            partner = line.pop(0)
            self.pairs += 1
            self.slower += partner / SLOWER > milliseconds
            self.candidate.add(partner)
            self.stable.add(milliseconds)

    @property
    def ratio(self) -> float | None:
        """The candidate's median over the stable one's."""
        ours, theirs = self.candidate.median, self.stable.median
        return ours / theirs if ours is not None and theirs else None

    @property
    def evidence(self) -> float:
        """Against: at most half of the pairs are slower."""
        return share_evidence(self.slower, self.pairs, 0.5, _ALTERNATIVES)

    def state(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "pairs": self.pairs,
            "slower": self.slower,
            "candidate": sorted(self.candidate.buckets.items()),
            "stable": sorted(self.stable.buckets.items()),
            "waiting": [[*kind, line] for kind, line in self.waiting.items() if line],
        }

    @classmethod
    def load(cls, state: dict[str, Any]) -> "Pairs":
        """What `state` told."""
        waiting = OrderedDict(((str(name), int(length)), list(line)) for name, length, line in state["waiting"])
        ours, theirs = (Times({int(b): int(n) for b, n in state[side]}) for side in ("candidate", "stable"))
        return cls(state["pairs"], state["slower"], ours, theirs, waiting)

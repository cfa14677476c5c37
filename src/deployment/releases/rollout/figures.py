"""What is shown of a rollout: both releases' counts and times, and how they went. Pure; bounded in size."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from deployment.releases.traffic import Outcome, ShadowSample

_MOST_POINTS = 240
_FIRST_SPAN_S = 5.0
_FEW = 20
"""Fewer times of the old release say nothing of what is slow."""
_BASE = 1.1
"""Times are counted in buckets that grow by a tenth: a percentile is right within 5 %."""


@dataclass(slots=True)
class Times:
    """How often which time in milliseconds was seen."""

    buckets: dict[int, int] = field(default_factory=dict)

    def add(self, milliseconds: float) -> None:
        """One more."""
        bucket = round(math.log(max(milliseconds, 0.01), _BASE))
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1

    @property
    def count(self) -> int:
        """How many."""
        return sum(self.buckets.values())

    def at(self, share: float) -> float | None:
        """The time in milliseconds that this share stays below; None without any."""
        wanted = share * self.count
        for bucket in sorted(self.buckets):
            wanted -= self.buckets[bucket]
            if wanted <= 0:
                return float(_BASE**bucket)
        return None


@dataclass(slots=True)
class Side:
    """One release's."""

    requests: int = 0
    failed: int = 0
    slow: int = 0
    """Answers that took as much longer than the old release's median as the plan calls too slow, and longer than 99 %
    of the old release's."""
    scored: int = 0
    """Answers that were scored, by callers and by questions of the evaluation set."""
    score: float = 0.0
    """Sum of the scores."""
    ttft: Times = field(default_factory=Times)
    token: Times = field(default_factory=Times)


@dataclass(slots=True)
class Point:
    """What happened from `at` (seconds since the start) until the next point."""

    at: float
    weight: float
    requests: tuple[int, int] = (0, 0)
    """The old release's, the new one's."""
    failed: tuple[int, int] = (0, 0)
    evidence: float = 0.0
    """The largest part of the way to a limit that any check has gone; 1 is the limit."""


@dataclass(slots=True)
class Figures:
    """Of one rollout."""

    stable: Side = field(default_factory=Side)
    candidate: Side = field(default_factory=Side)
    mirrored: int = 0
    mirrored_failed: int = 0
    mirrored_equal: int = 0
    mirrored_compared: int = 0
    lost: int = 0
    """Outcomes that gateways had to forget while the database was away."""
    span_s: float = _FIRST_SPAN_S
    points: list[Point] = field(default_factory=list)

    @property
    def harmed(self) -> int:
        """Requests that the new release failed, or answered too slowly."""
        return self.candidate.failed + self.candidate.slow

    def count(self, outcomes: Iterable[Outcome], slow_ratio: float) -> tuple[tuple[int, int], tuple[int, int]]:
        """Add what became of requests; returns (requests, failed) of the old and the new release."""
        requests, failed = [0, 0], [0, 0]
        for outcome in outcomes:
            side = self.candidate if outcome.candidate else self.stable
            side.requests += 1
            requests[outcome.candidate] += 1
            if outcome.failed:
                side.failed += 1
                failed[outcome.candidate] += 1
                continue
            if outcome.ttft_ms is not None:
                side.ttft.add(outcome.ttft_ms)
            if outcome.token_ms is not None:
                side.token.add(outcome.token_ms)
            if outcome.candidate and self._is_slow(outcome, slow_ratio):
                side.slow += 1
        return (requests[0], requests[1]), (failed[0], failed[1])

    def mirror(self, samples: Iterable[ShadowSample]) -> None:
        """Add mirrored requests."""
        for sample in samples:
            self.mirrored += 1
            self.mirrored_failed += sample.failed
            self.mirrored_compared += sample.equal is not None
            self.mirrored_equal += sample.equal is True

    def scored(self, candidate: bool, score: float) -> None:
        """Add a scored answer."""
        side = self.candidate if candidate else self.stable
        side.scored += 1
        side.score += score

    def point(
        self, at: float, weight: float, requests: tuple[int, int], failed: tuple[int, int], evidence: float
    ) -> None:
        """Add to the line of what happened, `at` seconds after the start. Points are joined when they get many."""
        last = self.points[-1] if self.points else None
        if last is None or at - last.at >= self.span_s or last.weight != weight:
            last = Point(at, weight)
            self.points.append(last)
        last.requests = (last.requests[0] + requests[0], last.requests[1] + requests[1])
        last.failed = (last.failed[0] + failed[0], last.failed[1] + failed[1])
        last.evidence = max(last.evidence, evidence)
        if len(self.points) > _MOST_POINTS:
            self.span_s *= 2
            self.points = _joined(self.points)

    def _is_slow(self, outcome: Outcome, ratio: float) -> bool:
        pairs = ((self.stable.ttft, outcome.ttft_ms), (self.stable.token, outcome.token_ms))
        return any(_is_long(times, time, ratio) for times, time in pairs if time is not None)


def _is_long(times: Times, time: float, ratio: float) -> bool:
    if times.count < _FEW:
        return False
    middle, nearly_all = times.at(0.5), times.at(0.99)
    return middle is not None and nearly_all is not None and time > ratio * middle and time > nearly_all


def _joined(points: list[Point]) -> list[Point]:
    """Half as many: neighbours in one."""
    joined = []
    for first, second in zip(points[::2], [*points[1::2], None], strict=False):
        if second is not None:
            first.requests = (first.requests[0] + second.requests[0], first.requests[1] + second.requests[1])
            first.failed = (first.failed[0] + second.failed[0], first.failed[1] + second.failed[1])
            first.evidence = max(first.evidence, second.evidence)
            first.weight = second.weight
        joined.append(first)
    return joined


def figures_out(figures: Figures) -> dict[str, Any]:
    """As a JSON object that `figures_in` understands."""

    def side(each: Side) -> dict[str, Any]:
        return {
            "requests": each.requests,
            "failed": each.failed,
            "slow": each.slow,
            "scored": each.scored,
            "score": each.score,
            "ttft": {str(bucket): count for bucket, count in each.ttft.buckets.items()},
            "token": {str(bucket): count for bucket, count in each.token.buckets.items()},
        }

    return {
        "stable": side(figures.stable),
        "candidate": side(figures.candidate),
        "mirrored": [
            figures.mirrored,
            figures.mirrored_failed,
            figures.mirrored_equal,
            figures.mirrored_compared,
        ],
        "lost": figures.lost,
        "span_s": figures.span_s,
        "points": [[p.at, p.weight, *p.requests, *p.failed, p.evidence] for p in figures.points],
    }


def figures_in(document: dict[str, Any]) -> Figures:
    """The figures that `figures_out` told."""

    def side(told: dict[str, Any]) -> Side:
        ttft, token = ({int(bucket): count for bucket, count in told[name].items()} for name in ("ttft", "token"))
        counts = {name: told[name] for name in ("requests", "failed", "slow", "scored", "score")}
        return Side(**counts, ttft=Times(ttft), token=Times(token))

    if not document:
        return Figures()
    mirrored, failed, equal, compared = document["mirrored"]
    return Figures(
        side(document["stable"]),
        side(document["candidate"]),
        mirrored,
        failed,
        equal,
        compared,
        document["lost"],
        document["span_s"],
        [Point(p[0], p[1], (p[2], p[3]), (p[4], p[5]), p[6]) for p in document["points"]],
    )

"""What the judge is told, what it goes by, and what it says. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Result(StrEnum):
    """What the evidence says."""

    PASS = "pass"  # noqa: S105 - a verdict
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    """Not enough evidence, or none. Never counts as a pass."""


class Verdict(NamedTuple):
    """One check, with the numbers behind it."""

    check: str
    result: Result
    value: float | None
    """What was measured; None where there is nothing to measure yet."""
    limit: float | None
    samples: int
    reason: str
    """One sentence for people."""


class Evidence(NamedTuple):
    """How far a check that can roll back has gone: it fails when `value` reaches `limit`."""

    check: str
    value: float
    limit: float


class GuardFacts(NamedTuple):
    """What nodes and queue look like at one moment."""

    at: float
    """Epoch seconds."""
    failed_health_checks: int = 0
    """The most failed checks in a row of any node that holds the candidate."""
    out_of_memory: bool = False
    memory_share: float | None = None
    """What loaded models take of the memory of the fullest node that holds the candidate; None where no label tells."""
    queue_wait_s: float | None = None
    """What a request of the candidate waits for a slot now."""


@dataclass(frozen=True, slots=True)
class StepNeeds:
    """What a step asks for before it passes."""

    min_requests: int = 100
    """Answers of the candidate since the step began."""
    min_scores: int = 0
    """Scored answers of the candidate; 0 lets a step pass without any."""
    gap: bool = False
    """Outcomes of this step were lost, or a gateway did not tell its own."""
    share: float | None = None
    """The candidate's fixed share, where the sample ratio is to be watched (A/B)."""


@dataclass(frozen=True, slots=True)
class JudgeLimits:
    """What the judge goes by."""

    alpha: float = 0.01
    """The chance that a healthy release is rolled back, over a whole rollout, however often it is looked at."""
    error_limit: float = 0.05
    """The share of failed requests that is too much by itself."""
    latency_ratio: float = 2.0
    """How many times the stable side's median is too slow."""
    quality_margin: float = 0.05
    """How much lower answers may score (scores are 0 to 1)."""
    safe_alpha: float = 0.05
    """The chance that a step passes though the share of failed requests is at the limit."""
    min_pairs: int = 20
    """Pairs of answers without which nothing is said of latency."""
    health_failures: int = 3
    memory_share: float = 0.95
    memory_seconds: float = 60.0
    queue_wait_s: float = 30.0
    queue_samples: int = 3

    def part(self, check: str) -> float:
        """A check's part of `alpha`; together they are not more than all of it (union bound)."""
        return self.alpha * _PARTS[check]


ERRORS, ERROR_LIMIT, SAFE = "errors", "error limit", "safe"
FIRST_TOKEN, TOKENS = "time to first token", "time per token"
QUALITY, GUARDS, RATIO = "quality", "guards", "sample ratio"

# Errors are what rollouts fail by most, and what must be seen first.
_PARTS = {ERRORS: 0.7, ERROR_LIMIT: 0.03, FIRST_TOKEN: 0.12, TOKENS: 0.12, QUALITY: 0.03}


def overall(verdicts: Iterable[Verdict]) -> Result:
    """One FAIL fails; else all must pass. Nothing at all is inconclusive."""
    results = [verdict.result for verdict in verdicts]
    if Result.FAIL in results:
        return Result.FAIL
    return Result.PASS if results and all(result is Result.PASS for result in results) else Result.INCONCLUSIVE

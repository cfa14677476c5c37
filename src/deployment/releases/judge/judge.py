"""The judge of one rollout: takes in what became of requests, and says with reasons whether the candidate is good."""

import math
from collections.abc import Iterable
from typing import Any

from deployment.releases.judge import sentences
from deployment.releases.judge.clusters import Clusters
from deployment.releases.judge.errors import Rate, Regression
from deployment.releases.judge.guards import Guards
from deployment.releases.judge.latency import Pairs
from deployment.releases.judge.model import (
    ERROR_LIMIT,
    ERRORS,
    FIRST_TOKEN,
    QUALITY,
    RATIO,
    SAFE,
    TOKENS,
    Evidence,
    GuardFacts,
    JudgeLimits,
    Result,
    StepNeeds,
    Verdict,
)
from deployment.releases.judge.quality import Scores
from deployment.releases.judge.ratio import ratio_evidence
from deployment.releases.traffic import Outcome

_RATIO_ALPHA = 0.001


class Judge:
    """Pure but for its own state, which is small, and JSON: a restart goes on exactly where it stopped.

    Who tells it of outcomes also tells it of requests that have been in flight for longer than the limit, as
    failed: a slow candidate would hide its own failures.
    """

    def __init__(self, limits: JudgeLimits) -> None:
        self.limits = limits
        self._regression = Regression()
        self._candidate, self._stable, self._step = Rate(), Rate(), Rate()
        self._arrived = [0, 0]  # stable, candidate, since the step began: for the sample ratio
        self._pairs = {FIRST_TOKEN: Pairs(), TOKENS: Pairs()}
        self._scores = Scores(limits.quality_margin)
        self._guards = Guards()
        self._clusters = Clusters()

    @classmethod
    def load(cls, state: dict[str, Any], limits: JudgeLimits) -> "Judge":
        """The judge that `state` was taken of; a new one of an empty state."""
        judge = cls(limits)
        if state:
            judge._regression = Regression(list(state["errors"]))
            judge._candidate, judge._stable, judge._step = (Rate(*state[name]) for name in _RATES)
            judge._arrived = list(state["arrived"])
            judge._pairs = {name: Pairs.load(state["pairs"][name]) for name in judge._pairs}
            judge._scores = Scores.load(state["scores"], limits.quality_margin)
            judge._guards = Guards(**state["guards"])
            judge._clusters = Clusters.load(state["clusters"])
        return judge

    def state(self) -> dict[str, Any]:
        """As a JSON object."""
        rates = (self._candidate, self._stable, self._step)
        return {
            "errors": list(self._regression.logs),
            **{name: [rate.requests, rate.failed] for name, rate in zip(_RATES, rates, strict=True)},
            "arrived": list(self._arrived),
            "pairs": {name: pairs.state() for name, pairs in self._pairs.items()},
            "scores": self._scores.state(),
            "guards": self._guards.state(),
            "clusters": self._clusters.state(),
        }

    # --- what it is told ------------------------------------------------------------------------------------

    def observe(self, outcomes: Iterable[Outcome]) -> None:
        """Take in what became of requests, in any order within seconds."""
        for outcome in outcomes:
            counts, fails = True, outcome.failed
            if outcome.cluster is not None:
                counts, fails = self._clusters.first(
                    f"{int(outcome.candidate)}{outcome.cluster}", failed=outcome.failed
                )
            if fails:
                self._regression.error(candidate=outcome.candidate, weight=outcome.weight)
            if counts:
                self._arrived[outcome.candidate] += 1
                self._time(outcome)
            for rate in (self._candidate, self._step) if outcome.candidate else (self._stable,):
                if counts:
                    rate.add(failed=fails)
                elif fails:
                    rate.failed += 1  # the sample was counted as good when it first came

    def _time(self, outcome: Outcome) -> None:
        kind = (outcome.node_class, outcome.length)
        for name, time in ((FIRST_TOKEN, outcome.ttft_ms), (TOKENS, outcome.token_ms)):
            if time is not None and not outcome.failed:
                self._pairs[name].add(kind, time, candidate=outcome.candidate)

    def quality(self, *, candidate: bool, score: float) -> None:
        """Take in a scored answer, 0 to 1; what is no number is no score."""
        if math.isfinite(score):
            self._scores.add(min(max(score, 0.0), 1.0), candidate=candidate)

    def guard(self, facts: GuardFacts) -> None:
        """Take in how nodes and queue are."""
        self._guards.look(facts, self.limits)

    def step(self) -> None:
        """A step began: requests are counted anew for it. What can roll back goes on: evidence is never lost."""
        self._step = Rate()
        self._arrived = [0, 0]
        # A caller who comes back, perhaps to the other side, is a sample of the new step too, on either side alike.
        self._clusters = Clusters()

    # --- what it says ---------------------------------------------------------------------------------------

    def evidence(self) -> tuple[Evidence, ...]:
        """How far each check that can roll back has gone toward its limit."""
        limits = self.limits
        values = {
            ERRORS: self._regression.evidence,
            ERROR_LIMIT: self._candidate.too_many(limits.error_limit),
            **{name: pairs.evidence for name, pairs in self._pairs.items()},
            QUALITY: self._scores.evidence,
        }
        return tuple(Evidence(name, value, 1.0 / limits.part(name)) for name, value in values.items())

    def verdicts(self, needs: StepNeeds) -> tuple[Verdict, ...]:
        """Every check, with its numbers."""
        found = {each.check: each for each in self.evidence()}
        verdicts = [
            self._errors(found[ERRORS], needs),
            self._limit(found[ERROR_LIMIT], needs),
            self._safe(needs),
            *(self._latency(found[name], pairs) for name, pairs in self._pairs.items()),
            self._guards.verdict(),
        ]
        if needs.min_scores or self._scores.pairs:
            verdicts.append(self._quality(found[QUALITY], needs))
        if needs.share is not None:
            verdicts.append(self._ratio(needs.share))
        return tuple(verdicts)

    def _errors(self, evidence: Evidence, needs: StepNeeds) -> Verdict:
        failed = evidence.value >= evidence.limit
        result = Result.FAIL if failed else _when(self._step.requests >= max(needs.min_requests, 1))
        reason = sentences.errors(result, self._candidate, self._stable, evidence)
        return Verdict(ERRORS, result, evidence.value, evidence.limit, self._candidate.requests, reason)

    def _limit(self, evidence: Evidence, needs: StepNeeds) -> Verdict:
        share, limit = self._candidate.share, self.limits.error_limit
        failed = evidence.value >= evidence.limit and share is not None and share >= limit
        result = Result.FAIL if failed else _when(self._step.requests >= max(needs.min_requests, 1))
        reason = sentences.limit(result, self._candidate, limit)
        return Verdict(ERROR_LIMIT, result, share, limit, self._candidate.requests, reason)

    def _safe(self, needs: StepNeeds) -> Verdict:
        value, limit = self._step.few_enough(self.limits.error_limit), 1.0 / self.limits.safe_alpha
        passed = value >= limit and self._step.requests >= needs.min_requests and not needs.gap
        reason = sentences.safe(self._step, needs, self.limits.error_limit, proven=value >= limit)
        return Verdict(SAFE, _when(passed), value, limit, self._step.requests, reason)

    def _latency(self, evidence: Evidence, pairs: Pairs) -> Verdict:
        ratio, limit = pairs.ratio, self.limits.latency_ratio
        slow = ratio is not None and ratio >= limit
        result = _when(pairs.pairs >= self.limits.min_pairs and not slow)
        if slow and evidence.value >= evidence.limit:
            result = Result.FAIL
        reason = sentences.latency(evidence.check, result, pairs, limit, self.limits.min_pairs)
        return Verdict(evidence.check, result, ratio, limit, pairs.pairs, reason)

    def _quality(self, evidence: Evidence, needs: StepNeeds) -> Verdict:
        scores, margin = self._scores, self.limits.quality_margin
        difference = scores.difference
        proven = scores.evidence_for >= 1.0 / self.limits.safe_alpha
        enough = scores.counts[True] >= needs.min_scores and difference is not None and difference >= -margin
        result = Result.FAIL if evidence.value >= evidence.limit else _when(proven or enough)
        reason = sentences.quality(result, scores, margin)
        return Verdict(QUALITY, result, difference, -margin, scores.counts[True], reason)

    def _ratio(self, share: float) -> Verdict:
        stable, candidate = self._arrived
        samples = stable + candidate
        crooked = ratio_evidence(candidate, samples, share) >= 1.0 / _RATIO_ALPHA if samples else False
        result = _when(bool(samples) and not crooked)
        value = candidate / samples if samples else None
        return Verdict(RATIO, result, value, share, samples, sentences.ratio(crooked, candidate, samples, share))


_RATES = ("candidate", "stable", "step")


def _when(passed: bool) -> Result:
    return Result.PASS if passed else Result.INCONCLUSIVE

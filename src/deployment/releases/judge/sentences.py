"""Why a verdict is what it is, for people who were just woken up."""

from deployment.releases.judge.errors import Rate
from deployment.releases.judge.latency import Pairs
from deployment.releases.judge.model import Evidence, Result, StepNeeds
from deployment.releases.judge.quality import Scores


def _told(rate: Rate) -> str:
    return f"{rate.failed} of {rate.requests}" + (f" ({rate.share:.1%})" if rate.share is not None else "")


def errors(result: Result, candidate: Rate, stable: Rate, evidence: Evidence) -> str:
    """Errors against the stable side."""
    counts = f"{_told(candidate)} requests failed on the new release, {_told(stable)} on the old one"
    if result is Result.FAIL:
        return f"The new release fails more: {counts}; evidence {evidence.value:.3g} of {evidence.limit:.3g}."
    if result is Result.PASS:
        return f"It does not fail more: {counts}."
    return f"Too few requests to say whether it fails more: {counts}."


def limit(result: Result, candidate: Rate, most: float) -> str:
    """The absolute limit."""
    if result is Result.FAIL:
        return f"{_told(candidate)} requests failed; {most:.1%} is the limit."
    if result is Result.PASS:
        return f"{_told(candidate)} requests failed, which is no case for the limit of {most:.1%}."
    return f"Too few requests for the limit of {most:.1%}: {_told(candidate)} failed."


def safe(step: Rate, needs: StepNeeds, most: float, *, proven: bool) -> str:
    """Safe to advance."""
    if needs.gap:
        return "Some outcomes of this step are missing: a gateway or the database was away."
    if step.requests < needs.min_requests:
        return f"{step.requests} of {needs.min_requests} requests of this step have come."
    if not proven:
        return f"{_told(step)} requests of this step failed: it is not sure yet that fewer than {most:.1%} fail."
    return f"{_told(step)} requests of this step failed: surely fewer than {most:.1%}."


def latency(check: str, result: Result, pairs: Pairs, most: float, least: int) -> str:
    """A time."""
    if pairs.ratio is None or (pairs.pairs < least and result is not Result.FAIL):
        return f"The {check}: {pairs.pairs} of {least} pairs of like requests to compare."
    ours, theirs = pairs.candidate.median or 0.0, pairs.stable.median or 0.0
    told = (
        f"The {check} is {pairs.ratio:.2f} times the old release's ({ours:.3g} ms to {theirs:.3g} ms, "
        f"medians of {pairs.pairs} pairs)"
    )
    if result is Result.FAIL:
        return f"{told}; {most:g} times is too slow."
    return f"{told}." if result is Result.PASS else f"{told}: not sure yet that it is too slow."


def quality(result: Result, scores: Scores, margin: float) -> str:
    """Scored answers."""
    if scores.difference is None:
        return "There are no scored answers of both releases yet."
    new, old = (scores.sums[side] / scores.counts[side] for side in (1, 0))
    told = f"The new release's answers score {new:.2f} (of {scores.counts[1]}), the old one's {old:.2f}"
    if result is Result.FAIL:
        return f"{told}: lower by more than {margin:g}."
    if result is Result.PASS:
        return f"{told} (of {scores.counts[0]})."
    return f"{told} (of {scores.counts[0]}): not sure yet."


def ratio(crooked: bool, candidate: int, samples: int, share: float) -> str:
    """The sample ratio."""
    if not samples:
        return "No requests have come yet."
    told = f"{candidate} of {samples} requests ({candidate / samples:.1%}) went to the new release, {share:.1%} should"
    return (
        f"{told}: the sides cannot be compared. Look for a cause before you believe the figures."
        if crooked
        else f"{told}."
    )

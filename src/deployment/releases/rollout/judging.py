"""From what is new to verdicts: outcomes, votes, scores and guards go into the judge and the figures. Pure."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from deployment.releases.judge import GuardFacts, Judge, JudgeLimits, StepNeeds, Verdict
from deployment.releases.rollout.figures import Figures
from deployment.releases.rollout.model import Phase, Rollout
from deployment.releases.rollout.plan import Plan, Strategy
from deployment.releases.traffic import Feedback, GatewayRow, Outcome, OutcomeBatch, ShadowSample

_GAP_S = 10.0
"""A gateway that has not written its outcomes down for so long may hide what went wrong."""


@dataclass(frozen=True, slots=True)
class News:
    """What came since the last look."""

    batches: Sequence[OutcomeBatch] = ()
    votes: Sequence[Feedback] = ()
    scores: Sequence[tuple[bool, float]] = ()
    """Of questions with known answers: whether the new release's, and the score."""
    guards: GuardFacts | None = None
    gateways: Sequence[GatewayRow] = ()
    gateways_at: datetime | None = None


def limits(plan: Plan) -> JudgeLimits:
    """The judge's limits as a plan has them."""
    return JudgeLimits(
        alpha=plan.judge.alpha,
        error_limit=plan.judge.error_limit,
        latency_ratio=plan.judge.latency_ratio,
        quality_margin=plan.judge.quality_margin,
    )


def judge_of(rollout: Rollout) -> Judge:
    """The judge where it stopped, or a new one."""
    return Judge.load(rollout.judge, limits(rollout.plan))


def began(before: Rollout, after: Rollout) -> Rollout:
    """Tell the judge where a new step began."""
    if (before.phase, before.step) == (after.phase, after.step) or not after.phase.judged:
        return after
    judge = judge_of(after)
    judge.step()
    return replace(after, judge=judge.state(), lost_before=after.figures.lost)


def judged(rollout: Rollout, news: News, now: datetime) -> tuple[Rollout, tuple[Verdict, ...]]:
    """The rollout with everything new in it, and what the judge says. The same rollout where nothing changed."""
    judge, figures = judge_of(rollout), deepcopy(rollout.figures)
    outcomes = [outcome for batch in news.batches for outcome in batch.outcomes]
    if rollout.phase is Phase.SHADOW:
        outcomes = mirrored(rollout, outcomes, [shadow for batch in news.batches for shadow in batch.shadows])
    judge.observe(outcomes)
    requests, failed = figures.count(outcomes, rollout.plan.judge.latency_ratio)
    for batch in news.batches:
        figures.mirror(batch.shadows)
        figures.lost += batch.lost
    for vote in news.votes:
        _score(judge, figures, vote.release == rollout.to_release, vote.score)
    for candidate, score in news.scores:
        _score(judge, figures, candidate, score)
    if news.guards is not None:
        judge.guard(news.guards)
    verdicts = tuple(judge.verdicts(_needs(rollout, figures, news)))
    at = (now - rollout.started_at).total_seconds()
    if news.batches:
        figures.point(at, rollout.weight, requests, failed, strongest(judge))
    changed = replace(
        rollout,
        judge=judge.state(),
        figures=figures,
        verdicts=tuple(verdict_out(verdict) for verdict in verdicts),
        cursor=news.batches[-1].seq if news.batches else rollout.cursor,
        votes=news.votes[-1].seq if news.votes else rollout.votes,
    )
    quiet = not (news.batches or news.votes or news.scores) and _lasting(changed.judge) == _lasting(rollout.judge)
    same = quiet and [_settled(v) for v in changed.verdicts] == [_settled(v) for v in rollout.verdicts]
    return (rollout if same else changed), verdicts


def mirrored(rollout: Rollout, outcomes: list[Outcome], shadows: list[ShadowSample]) -> list[Outcome]:
    """Mirrored requests as the judge knows requests.

    The new release answers a part s of what the old one answers, besides it: were both as good, an error of either
    would be the new one's with the chance s / (1 + s), which takes the place of its share of the traffic.
    """
    share = rollout.plan.mirror.share if rollout.plan.mirror is not None else 0.0
    weight = share / (1.0 + share)
    main = [outcome._replace(weight=weight, node_class="", length=0) for outcome in outcomes if not outcome.candidate]
    return main + [Outcome(each.at, True, weight, each.failed, each.ttft_ms, each.token_ms) for each in shadows]


def strongest(judge: Judge) -> float:
    """The largest part of the way to its limit that any check has gone."""
    ways = [min(1.0, each.value / each.limit) for each in judge.evidence() if each.limit]
    return max([0.0, *ways])


def evidence_out(rollout: Rollout) -> list[dict[str, Any]]:
    """How far each check has come toward its limit, as JSON objects."""
    if not rollout.judge:
        return []
    return [{"name": each.check, "value": each.value, "limit": each.limit} for each in judge_of(rollout).evidence()]


def verdict_out(verdict: Verdict) -> dict[str, Any]:
    """As a JSON object."""
    return verdict._asdict() | {"result": verdict.result.value}


def _settled(verdict: dict[str, Any]) -> tuple[Any, ...]:
    """What of a verdict is worth writing down by itself."""
    return verdict["check"], verdict["result"]


def _lasting(state: dict[str, Any]) -> dict[str, Any]:
    """The judge's state without the count of looks, which alone is not worth a write."""
    return state | {"guards": state["guards"] | {"looks": 0}} if state else state


def _score(judge: Judge, figures: Figures, candidate: bool, score: float) -> None:
    judge.quality(candidate=candidate, score=score)
    figures.scored(candidate, score)


def _needs(rollout: Rollout, figures: Figures, news: News) -> StepNeeds:
    step = rollout.steps[rollout.step] if rollout.phase is Phase.STEPS else None
    return StepNeeds(
        min_requests=(step.min_requests or 0) if step is not None else 0,
        gap=_gap(news) or figures.lost > rollout.lost_before,
        share=step.weight if step is not None and rollout.plan.strategy is Strategy.AB else None,
    )


def _gap(news: News) -> bool:
    """Whether a gateway that lives has not written its outcomes down lately."""
    return news.gateways_at is not None and any(
        row.outcomes_at is not None and (news.gateways_at - row.outcomes_at).total_seconds() > _GAP_S
        for row in news.gateways
    )

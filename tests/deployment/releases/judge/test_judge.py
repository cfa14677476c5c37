"""What the judge says, rule by rule."""

import json
import math
import random
from collections.abc import Iterable

import pytest

from deployment.releases.judge import GuardFacts, Judge, JudgeLimits, Result, StepNeeds, Verdict, overall
from deployment.releases.traffic import Outcome

NEEDS = StepNeeds(min_requests=100)
ALL_WELL = GuardFacts(at=0.0)


def outcomes(
    rng: random.Random,
    count: int,
    *,
    weight: float = 0.5,
    errors: tuple[float, float] = (0.0, 0.0),
    slower: float = 1.0,
    cluster: str | None = None,
    node_class: str = "",
) -> list[Outcome]:
    """Requests of both sides; `errors` are the shares of the stable side and of the candidate."""
    made = []
    for at in range(count):
        candidate = rng.random() < weight
        failed = rng.random() < errors[candidate]
        time = rng.lognormvariate(3.0, 0.5) * (slower if candidate else 1.0)
        first, token = (None, None) if failed else (time, time / 10)
        made.append(Outcome(float(at), candidate, weight, failed, first, token, node_class, 5, cluster))
    return made


def judged(*batches: Iterable[Outcome], limits: JudgeLimits | None = None) -> Judge:
    judge = Judge(limits or JudgeLimits())
    judge.guard(ALL_WELL)
    for batch in batches:
        judge.observe(batch)
    return judge


def verdict(judge: Judge, check: str, needs: StepNeeds = NEEDS) -> Verdict:
    return next(each for each in judge.verdicts(needs) if each.check == check)


@pytest.fixture
def rng() -> random.Random:
    return random.Random(7)


@pytest.mark.parametrize("least", [0, 100])
def test_without_data_nothing_passes_and_nothing_fails(least: int) -> None:
    verdicts = Judge(JudgeLimits()).verdicts(StepNeeds(min_requests=least))
    assert {each.result for each in verdicts} == {Result.INCONCLUSIVE}
    assert overall(verdicts) is Result.INCONCLUSIVE
    assert overall(()) is Result.INCONCLUSIVE


def test_a_release_that_is_as_good_passes_every_check(rng: random.Random) -> None:
    judge = judged(outcomes(rng, 1000, errors=(0.01, 0.01)))
    assert overall(judge.verdicts(NEEDS)) is Result.PASS


def test_more_errors_than_the_old_release_fail_and_say_so(rng: random.Random) -> None:
    judge = judged(outcomes(rng, 1500, errors=(0.01, 0.08)))
    found = verdict(judge, "errors")
    assert found.result is Result.FAIL
    assert found.value is not None
    assert found.limit is not None
    assert found.value >= found.limit
    assert "fails more" in found.reason
    assert overall(judge.verdicts(NEEDS)) is Result.FAIL


def test_errors_that_both_have_alike_are_not_the_new_releases_fault(rng: random.Random) -> None:
    judge = judged(outcomes(rng, 3000, errors=(0.04, 0.04)))
    assert verdict(judge, "errors").result is Result.PASS


def test_an_outage_of_everything_fails_by_the_limit_and_not_by_comparison(rng: random.Random) -> None:
    judge = judged(outcomes(rng, 1000, errors=(0.3, 0.3)))
    assert verdict(judge, "errors").result is Result.PASS
    assert verdict(judge, "error limit").result is Result.FAIL


def test_evidence_of_errors_survives_changes_of_weight(rng: random.Random) -> None:
    healthy = [outcomes(rng, 400, weight=w, errors=(0.05, 0.05)) for w in (0.05, 0.25, 0.5, 0.9)]
    assert verdict(judged(*healthy), "errors").result is not Result.FAIL


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_where_there_was_no_choice_an_error_compares_nothing(weight: float) -> None:
    judge = judged([Outcome(0.0, bool(weight), weight, True, None, None)] * 500)
    assert next(e.value for e in judge.evidence() if e.check == "errors") == 1.0


@pytest.mark.parametrize("weight", [5e-324, 1e-17, 1.0 - 1e-16])
@pytest.mark.parametrize("candidate", [True, False])
def test_a_share_of_nearly_nothing_or_all_breaks_nothing(weight: float, candidate: bool) -> None:
    judge = judged([Outcome(0.0, candidate, weight, True, None, None)] * 3)
    assert all(math.isfinite(each.value) for each in judge.evidence())


def test_a_release_that_fails_always_is_seen_within_few_requests() -> None:
    judge = judged([Outcome(0.0, True, 0.05, True, None, None)] * 3)
    assert verdict(judge, "errors").result is Result.FAIL


def test_a_step_needs_its_requests_and_proof() -> None:
    good = [Outcome(0.0, True, 0.5, False, 10.0, 1.0), Outcome(0.0, False, 0.5, False, 10.0, 1.0)]
    judge = judged(good * 80)
    assert verdict(judge, "safe", StepNeeds(min_requests=80)).result is Result.PASS
    assert verdict(judge, "safe", StepNeeds(min_requests=81)).result is Result.INCONCLUSIVE
    short = judged(good * 30)  # 30 without an error do not show that fewer than 5 % fail
    assert verdict(short, "safe", StepNeeds(min_requests=10)).result is Result.INCONCLUSIVE


def test_a_gap_in_what_gateways_told_keeps_a_step_from_passing(rng: random.Random) -> None:
    judge = judged(outcomes(rng, 1000))
    found = verdict(judge, "safe", StepNeeds(min_requests=100, gap=True))
    assert (found.result, "missing" in found.reason) == (Result.INCONCLUSIVE, True)


def test_a_new_step_counts_its_requests_anew_and_keeps_the_evidence(rng: random.Random) -> None:
    judge = judged(outcomes(rng, 600, errors=(0.01, 0.03)))
    before = judge.evidence()
    judge.step()
    assert judge.evidence() == before
    assert verdict(judge, "safe").samples == 0
    assert verdict(judge, "errors").result is Result.INCONCLUSIVE


@pytest.mark.parametrize(("slower", "result"), [(1.0, Result.PASS), (1.3, Result.PASS), (3.5, Result.FAIL)])
def test_times_fail_when_they_are_surely_too_slow(rng: random.Random, slower: float, result: Result) -> None:
    judge = judged(outcomes(rng, 1500, slower=slower))
    assert verdict(judge, "time to first token").result is result
    assert verdict(judge, "time per token").result is result


def test_times_are_compared_on_like_nodes_only() -> None:
    fast = [Outcome(0.0, False, 0.5, False, 10.0, 1.0, "gpu", 5)] * 200
    slow = [Outcome(0.0, True, 0.5, False, 100.0, 10.0, "cpu", 5)] * 200
    assert verdict(judged(slow, fast), "time to first token").samples == 0


def test_a_sticky_session_is_one_sample_however_many_requests_it_makes() -> None:
    failing = [Outcome(0.0, True, 0.1, True, None, None, "", 5, "session-1")] * 300
    judge = judged(failing)
    assert verdict(judge, "errors").result is not Result.FAIL
    assert verdict(judge, "safe").samples == 1
    several = [o._replace(cluster=f"session-{i}") for i, o in enumerate(failing[:10])]
    assert verdict(judged(several), "errors").result is Result.FAIL


def test_sessions_that_come_back_are_samples_of_the_next_step_too() -> None:
    sessions = [Outcome(0.0, True, 0.5, False, 10.0, 1.0, "", 5, f"session-{i}") for i in range(120)]
    judge = judged(sessions)
    judge.step()
    judge.observe(sessions * 10)
    assert verdict(judge, "safe", StepNeeds(min_requests=120)).samples == 120


@pytest.mark.parametrize("failed_before", [False, True])
def test_sessions_that_move_to_the_new_release_are_counted_there(failed_before: bool) -> None:
    before = [Outcome(0.0, False, 0.1, failed_before, 10.0, 1.0, "", 5, f"session-{i}") for i in range(60)]
    judge = judged(before)
    judge.step()
    evidence = next(e.value for e in judge.evidence() if e.check == "errors")
    judge.observe([each._replace(candidate=True, weight=0.3, failed=True) for each in before])
    assert next(e.value for e in judge.evidence() if e.check == "errors") > evidence
    found = verdict(judge, "error limit")
    assert (found.samples, found.value, found.result) == (60, 1.0, Result.FAIL)


def test_sessions_that_always_fail_are_not_blamed_on_the_release_they_come_to() -> None:
    """Each fails on whichever side it is; the new release gets more of them only as its share grows."""
    rng, judge = random.Random(11), judged()
    draws = [rng.random() for _ in range(400)]
    for weight in (0.05, 0.25, 0.5):
        judge.step()
        judge.observe(
            Outcome(0.0, draw < weight, weight, True, None, None, "", 5, f"session-{i}") for i, draw in enumerate(draws)
        )
    assert verdict(judge, "errors").result is not Result.FAIL


def test_a_score_that_is_no_number_changes_nothing() -> None:
    judge = judged()
    before = judge.state()
    judge.quality(candidate=True, score=float("nan"))
    assert judge.state() == before


def test_a_session_that_fails_later_counts_as_a_failed_one() -> None:
    well = Outcome(0.0, True, 0.5, False, 10.0, 1.0, "", 5, "session-1")
    judge = judged([well, well, well._replace(failed=True), well._replace(failed=True)])
    found = verdict(judge, "error limit")
    assert (found.samples, found.value) == (1, 1.0)


def test_answers_that_are_mostly_wrong_fail_by_their_scores(rng: random.Random) -> None:
    judge = judged(outcomes(rng, 500))
    for _ in range(60):
        judge.quality(candidate=True, score=float(rng.random() < 0.13))
        judge.quality(candidate=False, score=float(rng.random() < 0.99))
    found = verdict(judge, "quality")
    assert found.result is Result.FAIL
    assert "score" in found.reason


def test_scores_as_good_pass_and_a_few_of_them_are_enough_only_when_asked_for(rng: random.Random) -> None:
    judge = judged(outcomes(rng, 500))
    assert "quality" not in [each.check for each in judge.verdicts(NEEDS)]
    needs = StepNeeds(min_requests=100, min_scores=10)
    assert verdict(judge, "quality", needs).result is Result.INCONCLUSIVE
    for _ in range(10):
        judge.quality(candidate=True, score=1.0)
        judge.quality(candidate=False, score=1.0)
    assert verdict(judge, "quality", needs).result is Result.PASS


@pytest.mark.parametrize(
    ("looks", "why"),
    [
        ([GuardFacts(0.0, failed_health_checks=3)], "health"),
        ([GuardFacts(0.0, out_of_memory=True)], "out of memory"),
        ([GuardFacts(t, memory_share=0.97) for t in (0.0, 30.0, 61.0)], "memory"),
        ([GuardFacts(t, queue_wait_s=40.0) for t in (0.0, 1.0, 2.0)], "wait"),
    ],
)
def test_plain_guards_fail_at_once(looks: list[GuardFacts], why: str) -> None:
    judge = Judge(JudgeLimits())
    for look in looks:
        judge.guard(look)
    found = verdict(judge, "guards")
    assert found.result is Result.FAIL
    assert why in found.reason
    judge.guard(GuardFacts(100.0))
    assert verdict(judge, "guards").result is Result.FAIL


@pytest.mark.parametrize(
    "looks",
    [
        [GuardFacts(0.0, failed_health_checks=2)],
        [GuardFacts(0.0, memory_share=0.97), GuardFacts(30.0, memory_share=0.5), GuardFacts(61.0, memory_share=0.97)],
        [GuardFacts(0.0, queue_wait_s=40.0), GuardFacts(1.0, queue_wait_s=40.0), GuardFacts(2.0, queue_wait_s=1.0)],
    ],
)
def test_plain_guards_bear_what_passes(looks: list[GuardFacts]) -> None:
    judge = Judge(JudgeLimits())
    for look in looks:
        judge.guard(look)
    assert verdict(judge, "guards").result is Result.PASS


def test_a_crooked_division_of_traffic_is_told_and_holds(rng: random.Random) -> None:
    needs = StepNeeds(min_requests=100, share=0.5)
    straight = judged(outcomes(rng, 2000))
    assert verdict(straight, "sample ratio", needs).result is Result.PASS
    crooked = judged([o._replace(weight=0.5) for o in outcomes(rng, 2000, weight=0.4)])
    found = verdict(crooked, "sample ratio", needs)
    assert found.result is Result.INCONCLUSIVE
    assert "cannot be compared" in found.reason
    assert overall(crooked.verdicts(needs)) is not Result.FAIL


def test_a_restart_goes_on_where_it_stopped(rng: random.Random) -> None:
    first, second = outcomes(rng, 300, errors=(0.02, 0.05)), outcomes(rng, 300, errors=(0.02, 0.05), cluster="a")
    whole = judged(first, second)
    stopped = judged(first)
    stopped.quality(candidate=True, score=0.5)
    whole.quality(candidate=True, score=0.5)
    resumed = Judge.load(json.loads(json.dumps(stopped.state())), JudgeLimits())
    resumed.observe(second)
    assert resumed.state() == whole.state()
    assert resumed.verdicts(NEEDS) == whole.verdicts(NEEDS)


def test_its_state_stays_small_whatever_comes(rng: random.Random) -> None:
    judge = judged()
    for kind in range(300):
        judge.observe(outcomes(rng, 50, node_class=f"kind-{kind}", cluster=f"c-{kind}"))
        judge.observe([Outcome(0.0, True, 0.5, False, 10.0 + kind, 1.0, f"alone-{kind}", kind)] * 20)
    assert len(json.dumps(judge.state())) < 100_000

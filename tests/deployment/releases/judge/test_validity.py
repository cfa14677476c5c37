"""The promise of the evidence: however often it is looked at, a good release is seldom called bad."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployment.releases.judge import Judge, JudgeLimits
from deployment.releases.judge.eprocess import mean_exp
from deployment.releases.judge.errors import Rate, Regression
from deployment.releases.judge.latency import Pairs, Times
from deployment.releases.judge.quality import Scores
from deployment.releases.judge.ratio import ratio_evidence
from deployment.releases.traffic import Outcome

ALPHA = 0.05
RUNS = 400
MOST_ALARMS = 35  # of 400 at a chance of at most 0.05: more than this happens once in a thousand


@pytest.mark.parametrize("ratio", [1.0, 0.5])
@pytest.mark.parametrize("weight", [0.05, 0.5])
def test_errors_alike_or_fewer_seldom_raise_the_alarm(ratio: float, weight: float) -> None:
    rng, alarms = random.Random(1), 0
    chance = weight * ratio / (weight * ratio + 1 - weight)
    for _ in range(RUNS):
        test = Regression()
        for _ in range(200):
            test.error(candidate=rng.random() < chance, weight=weight)
            if test.evidence >= 1 / ALPHA:
                alarms += 1
                break
    assert alarms <= MOST_ALARMS


def test_a_share_at_the_null_seldom_raises_the_alarm_on_either_side() -> None:
    rng = random.Random(2)
    many = few = 0
    for _ in range(RUNS):
        high, low = Rate(), Rate()
        alarm_high = alarm_low = False
        for _ in range(300):
            high.add(failed=rng.random() < 0.025)
            low.add(failed=rng.random() < 0.05)
            alarm_high = alarm_high or high.too_many(0.05) >= 1 / ALPHA
            alarm_low = alarm_low or low.few_enough(0.05) >= 1 / ALPHA
        many, few = many + alarm_high, few + alarm_low
    assert many <= MOST_ALARMS
    assert few <= MOST_ALARMS


def test_scores_that_are_lower_by_the_margin_seldom_raise_the_alarm() -> None:
    rng, alarms = random.Random(3), 0
    for _ in range(RUNS):
        scores = Scores(0.05)
        for _ in range(150):
            scores.add(float(rng.random() < 0.75), candidate=True)
            scores.add(float(rng.random() < 0.8), candidate=False)
            if scores.evidence >= 1 / ALPHA:
                alarms += 1
                break
    assert alarms <= MOST_ALARMS


def test_a_straight_division_seldom_looks_crooked() -> None:
    rng, alarms = random.Random(4), 0
    for _ in range(RUNS):
        hits = 0
        for n in range(1, 300):
            hits += rng.random() < 0.2
            if ratio_evidence(hits, n, 0.2) >= 1 / ALPHA:
                alarms += 1
                break
    assert alarms <= MOST_ALARMS


def test_the_medians_of_detection_are_those_of_the_strategy() -> None:
    """5 % against 1 % of errors, half of the traffic, 10 requests/s, alpha 0.01: 69 s, within 15 %."""
    rng, found = random.Random(5), []
    for _ in range(300):
        test, now = Regression(), 0.0
        while test.evidence < 100:
            now += rng.expovariate(10 * 0.03)
            test.error(candidate=rng.random() < 5 / 6, weight=0.5)
        found.append(now)
    assert sorted(found)[150] == pytest.approx(69, rel=0.15)


@given(st.lists(st.floats(-2000, 2000), min_size=1, max_size=20))
def test_a_mean_of_exponentials_never_overflows(logs: list[float]) -> None:
    assert 0.0 <= mean_exp(logs) < math.inf


_outcomes = st.builds(
    Outcome,
    at=st.floats(0, 1e9),
    candidate=st.booleans(),
    weight=st.floats(0.0, 1.0),
    failed=st.booleans(),
    ttft_ms=st.none() | st.floats(0, 1e9),
    token_ms=st.none() | st.floats(0, 1e9),
    node_class=st.sampled_from(["", "gpu", "cpu"]),
    length=st.integers(0, 20),
    cluster=st.none() | st.sampled_from(["a", "b", "c"]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_outcomes, max_size=60), st.lists(_outcomes, max_size=60))
def test_whatever_comes_a_stored_judge_says_the_same(first: list[Outcome], second: list[Outcome]) -> None:
    whole, stopped = Judge(JudgeLimits()), Judge(JudgeLimits())
    whole.observe(first + second)
    stopped.observe(first)
    resumed = Judge.load(stopped.state(), JudgeLimits())
    resumed.observe(second)
    assert resumed.evidence() == whole.evidence()
    assert all(math.isfinite(each.value) for each in whole.evidence())


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=200))
def test_the_median_is_right_within_a_bucket(values: list[float]) -> None:
    times = Times()
    for value in values:
        times.add(value)
    ordered = sorted(values)
    low, high = ordered[(len(values) - 1) // 2], ordered[len(values) // 2]
    assert times.median is not None
    assert low / 1.06 <= times.median <= high * 1.06


def test_each_stable_answer_is_the_partner_of_one_only() -> None:
    pairs = Pairs()
    for _ in range(5):
        pairs.add(("", 1), 10.0, candidate=True)
    for _ in range(3):
        pairs.add(("", 1), 1.0, candidate=False)
    assert (pairs.pairs, pairs.slower) == (3, 3)


@pytest.mark.parametrize(("times", "slower"), [(1.45, 0), (1.55, 10)])
def test_a_pair_counts_from_one_and_a_half_times_on(times: float, slower: int) -> None:
    pairs = Pairs()
    for _ in range(10):
        pairs.add(("", 1), 10.0 * times, candidate=True)
        pairs.add(("", 1), 10.0, candidate=False)
    assert pairs.slower == slower


@pytest.mark.parametrize(("new", "worse"), [(0.96, False), (0.90, True)])
def test_scores_within_the_margin_are_no_evidence(new: float, worse: bool) -> None:
    scores = Scores(0.05)
    for _ in range(100):
        scores.add(new, candidate=True)
        scores.add(1.0, candidate=False)
    assert (scores.evidence > 1.0) is worse
    assert (scores.evidence_for > 1.0) is not worse

"""Which node takes a request: filters, policies, and when it is worth waiting."""

import random
from collections import Counter

import pytest

from deployment.engines.placement import Ask, Candidate, Decision, Policy, decide, fit
from deployment.engines.policies import policy_of
from deployment.engines.policies.least_expected_ttft import LeastExpectedTtft
from deployment.engines.policies.least_outstanding import LeastOutstanding
from deployment.engines.policies.random_of_two import RandomOfTwo
from deployment.engines.policies.round_robin import RoundRobin
from deployment.engines.policies.session import Session
from deployment.engines.policies.weighted import Weighted
from deployment.settings import PlacementPolicy, PoolSettings

ASK = Ask("m:v1", chars=1000)


def node(name: str, **values: object) -> Candidate:
    known = {"slots": 4, "capacity": 5, "service_s": 1.0, "overhead_s": 0.05, "char_s": 0.0001, "load_s": 5.0}
    return Candidate(name, **{**known, **values})  # type: ignore[arg-type]


def names(candidates: list[Candidate]) -> str:
    return "".join(c.name for c in candidates)


FILTERS = [
    ("draining never", [node("a", draining=True), node("b")], "b"),
    ("excluded never", [node("x"), node("b")], "b"),
    ("unhealthy only when nobody is better", [node("a", healthy=False), node("b")], "b"),
    ("all unhealthy: try rather than refuse", [node("a", healthy=False), node("b", healthy=False)], "ab"),
    (
        "a sick one with the release before a fit one without",
        [node("a", has_release=False), node("b", healthy=False)],
        "b",
    ),
    ("full ones stay, for patience", [node("a", in_flight=5), node("b")], "ab"),
    ("own region first", [node("a", region="eu"), node("b", region="us")], "a"),
    ("others when it is full", [node("a", region="eu", in_flight=5), node("b", region="us")], "ab"),
    ("others when it is down", [node("a", region="eu", healthy=False), node("b", region="us")], "b"),
    ("others while it loads", [node("a", region="eu", loaded=False), node("b", region="us")], "ab"),
    ("not when those load too", [node("a", region="eu", loaded=False), node("b", region="us", loaded=False)], "a"),
    (
        "nor when those are full",
        [node("a", region="eu", loaded=False), node("b", region="us", in_flight=5)],
        "a",
    ),
    ("nobody at all", [node("a", draining=True)], ""),
]


@pytest.mark.parametrize(("rule", "candidates", "kept"), FILTERS, ids=[row[0] for row in FILTERS])
def test_filters(rule: str, candidates: list[Candidate], kept: str) -> None:
    assert names(fit(candidates, Ask("m:v1", excluded={"x"}), "eu")) == kept


UNKNOWN: dict[str, object] = dict.fromkeys(("service_s", "overhead_s", "char_s", "load_s"))
CHOICES = [
    ("the idle of equals", [node("a", in_flight=2), node("b")], "b"),
    ("the faster of idle ones", [node("a", overhead_s=0.5), node("b")], "b"),
    ("a fast busy one before a slow idle one", [node("a", overhead_s=0.5), node("b", in_flight=2)], "b"),
    ("loaded before cold", [node("a", loaded=False), node("b", in_flight=3)], "b"),
    ("cold when loading is sooner", [node("a", loaded=False, load_s=0.1), node("b", in_flight=4)], "a"),
    ("the one that knows the conversation", [node("a", overhead_s=0.04), node("b", matched_chars=900)], "b"),
    (
        "but not at any price",
        [node("a"), node("b", matched_chars=900, in_flight=4, service_s=20.0)],
        "a",
    ),
    ("an unknown one is worth a try", [node("a", picked_last=1), node("b", overhead_s=None)], "b"),
    ("the first request of all goes to it", [node("a", matched_chars=900), node("b", service_s=None)], "b"),
    ("but no second before its answer", [node("a"), node("b", service_s=None, overhead_s=0.2, in_flight=1)], "a"),
    ("who was slow is tried again", [node("a"), node("b", overhead_s=0.5, matched_chars=200, idle_s=600.0)], "b"),
    ("but not soon", [node("a"), node("b", overhead_s=0.5, matched_chars=200, idle_s=6.0)], "a"),
]


@pytest.mark.parametrize(("rule", "candidates", "taken"), CHOICES, ids=[row[0] for row in CHOICES])
def test_least_expected_time_to_first_token(rule: str, candidates: list[Candidate], taken: str) -> None:
    assert decide(candidates, ASK, LeastExpectedTtft(2.0), 0.0).node == taken


def test_affinity_is_worth_at_most_its_bound() -> None:
    # 0.1 s of reading saved on b, against (5 - 4 + 1) / 4 × 0.1 s of waiting there.
    candidates = [node("a"), node("b", matched_chars=1000, in_flight=4, service_s=0.1)]
    assert decide(candidates, ASK, LeastExpectedTtft(1.0), 0.0).node == "b"
    assert decide(candidates, ASK, LeastExpectedTtft(0.01), 0.0).node == "a"


def test_it_waits_for_a_full_node_as_long_as_that_is_sooner_than_a_cold_one() -> None:
    candidates = [node("busy", in_flight=5), node("cold", loaded=False, load_s=5.0)]
    decision = decide(candidates, ASK, LeastExpectedTtft(0.0), 0.0)
    assert decision.node is None
    assert decision.patience_s == pytest.approx(4.5, abs=0.1)
    assert decide(candidates, ASK, LeastExpectedTtft(0.0), 4.6).node == "cold"


def test_it_waits_for_a_slot_that_holds_the_conversation_as_long_as_reading_it_anew_takes() -> None:
    a = node("a", in_flight=1, service_s=0.2, char_s=0.001)
    soon = a._replace(matched_chars=900, turns=0.5)
    decision = decide([a, soon], ASK, LeastExpectedTtft(2.0), 0.0)
    assert decision.node is None
    assert decision.patience_s == pytest.approx(0.8, abs=0.01)  # 0.9 s of reading against 0.1 s of waiting
    assert decide([a, soon], ASK, LeastExpectedTtft(2.0), 0.8).node == "a"
    assert decide([a, soon._replace(matched_chars=50)], ASK, LeastExpectedTtft(2.0), 0.0).node == "a"
    assert decide([a, soon], ASK, LeastExpectedTtft(0.05), 0.0).node == "a"  # more than may be traded


def test_on_guesses_nobody_waits_for_a_slot_while_another_is_free() -> None:
    full = node("a", **UNKNOWN, in_flight=4, matched_chars=6000)
    free = node("b", **UNKNOWN, in_flight=3)
    assert decide([full, free], Ask("m:v1", chars=6000), LeastExpectedTtft(2.0), 0.0).node == "b"


def test_it_waits_when_all_are_full() -> None:
    for policy in (LeastExpectedTtft(1.0), LeastOutstanding()):
        assert decide([node("a", in_flight=5)], ASK, policy, 0.0) == Decision(None)


def test_least_outstanding_counts_shares_of_the_slots() -> None:
    candidates = [node("small", slots=1, in_flight=1, capacity=2), node("large", slots=8, in_flight=4)]
    assert decide([*candidates[:1], candidates[1]._replace(capacity=9)], ASK, LeastOutstanding(), 0.0).node == "large"


def play(policy: Policy, weights: dict[str, float], turns: int, ask: Ask = ASK) -> Counter[str]:
    nodes = {name: node(name, weight=weight, capacity=99) for name, weight in weights.items()}
    taken: Counter[str] = Counter()
    for turn in range(1, turns + 1):
        name = decide(list(nodes.values()), ask, policy, 0.0).node
        assert name is not None
        chosen = nodes[name]
        nodes[name] = chosen._replace(picked=chosen.picked + 1 / chosen.weight, picked_last=turn)
        taken[name] += 1
    return taken


def test_round_robin_goes_around() -> None:
    assert play(RoundRobin(), {"a": 1, "b": 5, "c": 1}, 9) == {"a": 3, "b": 3, "c": 3}


def test_weighted_keeps_the_weights() -> None:
    assert play(Weighted(), {"a": 1, "b": 3}, 40) == {"a": 10, "b": 30}


def test_random_of_two_uses_all_and_avoids_the_loaded() -> None:
    policy = RandomOfTwo(random.Random(1))
    assert set(play(policy, {"a": 1, "b": 1, "c": 1}, 60)) == {"a", "b", "c"}
    loaded = [node("a", in_flight=4), node("b"), node("c")]
    assert all(decide(loaded, ASK, policy, 0.0).node != "a" for _ in range(30))


def test_a_session_stays_and_only_the_lost_node_s_sessions_move() -> None:
    all_three = [node(name) for name in "abc"]
    home = {s: decide(all_three, Ask("m", session=s), Session(), 0.0).node for s in map(str, range(60))}
    assert set(home.values()) == {"a", "b", "c"}
    for session, where in home.items():
        now = decide(all_three[:2], Ask("m", session=session), Session(), 0.0).node
        assert now == where or where == "c"


@pytest.mark.parametrize(
    "policy", [LeastOutstanding(), RoundRobin(), Weighted(), RandomOfTwo(random.Random(1)), Session()]
)
def test_who_does_not_weigh_a_load_sends_nothing_where_one_goes_on_while_another_is_free(policy: Policy) -> None:
    cold = node("a", loaded=False)
    asks = [Ask("m:v1", session=str(number)) for number in range(20)]
    assert {decide([cold, node("b", in_flight=3)], ask, policy, 0.0).node for ask in asks} == {"b"}
    assert {decide([cold, node("b", in_flight=5)], ask, policy, 0.0).node for ask in asks} == {"a"}


@pytest.mark.parametrize("policy", list(PlacementPolicy))
def test_every_policy_can_be_set_and_takes_a_free_node(policy: PlacementPolicy) -> None:
    made = policy_of(PoolSettings(policy=policy), random.Random(1))
    candidates = [node("full", in_flight=5), node("free")]
    assert decide(candidates, Ask("m:v1", session="s"), made, 0.0).node == "free"

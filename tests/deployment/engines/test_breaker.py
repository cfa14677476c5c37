"""The breaker's transitions, one rule a test, and what holds whatever happens."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from deployment.engines import breaker
from deployment.engines.breaker import CLOSED, WINDOW, Breaker, Phase, Rules

RULES = Rules(failures=3, ratio=0.5, backoff_s=1.0, max_backoff_s=8.0)


def fail(state: Breaker, times: int, now: float = 0.0) -> Breaker:
    for _ in range(times):
        state = breaker.failed(state, now, RULES)
    return state


def test_failures_in_a_row_open_it() -> None:
    assert fail(CLOSED, 2).phase is Phase.CLOSED
    assert fail(CLOSED, 3).phase is Phase.OPEN


def test_a_success_between_starts_the_row_again() -> None:
    assert fail(breaker.succeeded(fail(CLOSED, 2)), 2).phase is Phase.CLOSED


def test_a_share_of_failures_opens_it_though_successes_lie_between() -> None:
    state = CLOSED
    for turn in range(WINDOW - 1):
        state = breaker.succeeded(state) if turn % 2 else fail(state, 1)
        assert state.phase is Phase.CLOSED
    assert fail(state, 1).phase is Phase.OPEN


def test_a_small_share_of_failures_does_not() -> None:
    state = CLOSED
    for turn in range(5 * WINDOW):
        state = breaker.succeeded(state) if turn % 3 else fail(state, 1)
    assert state.phase is Phase.CLOSED


def test_the_back_off_doubles_up_to_its_limit() -> None:
    state, waits, now = fail(CLOSED, 3), [], 0.0
    for _ in range(6):
        waits.append(state.retry_at - now)
        now = state.retry_at
        state = breaker.failed(breaker.probing(state, now), now, RULES)
    assert waits == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_one_probe_goes_and_only_after_the_back_off() -> None:
    state = fail(CLOSED, 3)
    assert not breaker.may_probe(state, 0.9)
    assert breaker.may_probe(state, 1.0)
    state = breaker.probing(state, 1.0)
    assert state.phase is Phase.HALF_OPEN
    assert not breaker.may_probe(state, 99.0)


def test_the_probe_decides() -> None:
    half = breaker.probing(fail(CLOSED, 3), 1.0)
    assert breaker.succeeded(half) == CLOSED
    assert breaker.failed(half, 1.0, RULES).phase is Phase.OPEN
    again = breaker.probe_cancelled(half)
    assert breaker.may_probe(again, 1.0)
    assert again.opened == half.opened


def test_failures_while_open_do_not_lengthen_it() -> None:
    state = fail(CLOSED, 3, now=0.0)
    assert breaker.failed(state, 0.5, RULES) == state
    assert breaker.tripped(state, 0.5, RULES) == state


def test_a_node_that_is_gone_is_out_at_once() -> None:
    assert breaker.tripped(CLOSED, 5.0, RULES).retry_at == 6.0


steps = st.lists(
    st.tuples(st.sampled_from(["ok", "fail", "trip", "probe", "cancel"]), st.floats(0, 5, allow_nan=False)),
    max_size=80,
)


@given(steps)
def test_whatever_happens(history: list[tuple[str, float]]) -> None:
    """It is never half-open without a probe, never out for longer than its limit, and always comes back."""
    state, now = CLOSED, 0.0
    for what, later in history:
        now += later
        before = state
        moves: dict[str, Any] = {
            "ok": lambda s: breaker.succeeded(s),
            "fail": lambda s, t=now: breaker.failed(s, t, RULES),
            "trip": lambda s, t=now: breaker.tripped(s, t, RULES),
            "probe": lambda s, t=now: breaker.probing(s, t),
            "cancel": lambda s: breaker.probe_cancelled(s),
        }
        state = moves[what](state)
        if state.phase is Phase.HALF_OPEN and before.phase is not Phase.HALF_OPEN:
            assert what == "probe"
            assert now >= before.retry_at
        if state.phase is Phase.OPEN:
            assert state.retry_at <= now + RULES.max_backoff_s
    if state.phase is Phase.HALF_OPEN:
        state = breaker.probe_cancelled(state)
    if state.phase is Phase.OPEN:
        state = breaker.probing(state, state.retry_at)
    assert breaker.succeeded(state).phase is Phase.CLOSED

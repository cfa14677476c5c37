"""The circuit breaker of a node: pure transitions on a frozen state.

Closed lets work through. Failures in a row, or a share of failures among the last WINDOW outcomes, open it for a
back-off that doubles each time. When that is over, a single probe may go (half-open); its success closes the
breaker, its failure opens it for longer, its cancellation leaves the next probe free.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

WINDOW = 20
_MASK = (1 << WINDOW) - 1


class Phase(StrEnum):
    """Where a breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Rules:
    """When a breaker opens, and for how long (seconds)."""

    failures: int = 3
    ratio: float = 0.5
    backoff_s: float = 1.0
    max_backoff_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Breaker:
    """The state; make a new one with the functions below."""

    phase: Phase = Phase.CLOSED
    in_a_row: int = 0
    outcomes: int = 0
    """The last WINDOW outcomes as bits, the newest lowest; 1 is a failure."""
    seen: int = 0
    """How many of those bits mean something."""
    retry_at: float = 0.0
    """When a probe may go (monotonic seconds); counts while open."""
    opened: int = 0
    """Times opened since it was last closed: the exponent of the back-off."""


CLOSED = Breaker()


def succeeded(state: Breaker) -> Breaker:
    """An answer came to its end: real evidence, whatever the phase."""
    if state.phase is not Phase.CLOSED:
        return CLOSED
    if not state.outcomes and state.seen == WINDOW:
        return state  # the common case costs nothing
    outcomes = (state.outcomes << 1) & _MASK
    return replace(state, in_a_row=0, outcomes=outcomes, seen=min(state.seen + 1, WINDOW))


def failed(state: Breaker, now: float, rules: Rules) -> Breaker:
    """The node failed a request or a check."""
    if state.phase is Phase.HALF_OPEN:
        return _open(state, now, rules)
    if state.phase is Phase.OPEN:
        return state  # a straggler from before it opened says nothing new
    outcomes = (state.outcomes << 1 | 1) & _MASK
    seen = min(state.seen + 1, WINDOW)
    state = replace(state, in_a_row=state.in_a_row + 1, outcomes=outcomes, seen=seen)
    many = seen == WINDOW and outcomes.bit_count() >= rules.ratio * WINDOW
    return _open(state, now, rules) if many or state.in_a_row >= rules.failures else state


def tripped(state: Breaker, now: float, rules: Rules) -> Breaker:
    """The node is known to be gone: open at once."""
    return state if state.phase is Phase.OPEN else _open(state, now, rules)


def may_probe(state: Breaker, now: float) -> bool:
    """Whether the back-off is over and no probe is under way."""
    return state.phase is Phase.OPEN and now >= state.retry_at


def probing(state: Breaker, now: float) -> Breaker:
    """The single probe goes; only after `may_probe`."""
    return replace(state, phase=Phase.HALF_OPEN) if may_probe(state, now) else state


def probe_cancelled(state: Breaker) -> Breaker:
    """The probe ended without a verdict: another may go at once."""
    return replace(state, phase=Phase.OPEN) if state.phase is Phase.HALF_OPEN else state


def _open(state: Breaker, now: float, rules: Rules) -> Breaker:
    backoff = min(rules.backoff_s * 2.0 ** min(state.opened, 30), rules.max_backoff_s)
    return Breaker(phase=Phase.OPEN, retry_at=now + backoff, opened=state.opened + 1)

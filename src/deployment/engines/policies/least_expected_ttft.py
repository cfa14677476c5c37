"""The node that is expected to give the first token soonest."""

from collections.abc import Callable, Sequence

from deployment.engines.learned import fade
from deployment.engines.placement import Ask, Candidate

# Guesses until the first answer teaches better. Small, so that a new node is tried; but nobody waits for a slot of an
# engine that nothing is known of while another has one.
_SERVICE_S = 5.0
_OVERHEAD_S = 0.05
_CHAR_S = 0.0001
_LOAD_S = 5.0


class LeastExpectedTtft:
    """Wait for a slot + load + overhead + the prompt's part that is not in the node's cache.

    The cache counts only on nodes whose wait is within `affinity_s` of the shortest: so much load is traded for it.
    Of a node that nothing is known of, the best of the others is expected, and its first request goes there at
    once: what that one loses is the whole price of knowing.
    """

    patient = True

    def __init__(self, affinity_s: float) -> None:
        self._affinity_s = affinity_s

    def rank(self, candidates: Sequence[Candidate], ask: Ask) -> list[float]:
        """Expected seconds to the first token."""
        services = _expected(candidates, lambda c: c.service_s, _SERVICE_S)
        overheads = _expected(candidates, lambda c: c.overhead_s, _OVERHEAD_S)
        chars = _expected(candidates, lambda c: c.char_s, _CHAR_S)
        loads = _expected(candidates, lambda c: c.load_s, _LOAD_S)
        delays = [_delay(c, service, load) for c, service, load in zip(candidates, services, loads, strict=True)]
        bound = min(delays) + self._affinity_s
        costs = []
        for c, delay, overhead, char in zip(candidates, delays, overheads, chars, strict=True):
            if c.service_s is None and c.in_flight == 0 and c.turns is None:
                costs.append(delay)
                continue
            fresh = ask.chars - (c.matched_chars if delay <= bound else 0)
            # A node that already works on something gives its tokens slower: near-equals share the work.
            busy = 1.0 + min(c.in_flight / c.slots, 1.0)
            costs.append(delay + busy * overhead + fresh * char)
        return costs


def _delay(c: Candidate, service: float, load: float) -> float:
    """Seconds until the node begins with the prompt."""
    if c.turns is not None:
        return c.turns * service
    ahead = c.in_flight - c.slots + 1
    wait = ahead * service / c.slots if ahead > 0 else 0.0
    return wait if c.loaded else wait + load


def _expected(
    candidates: Sequence[Candidate], measure: Callable[[Candidate], float | None], guess: float
) -> list[float]:
    """A measure of each: what was learned, faded where that is long ago; of unknown nodes the best of the others."""
    values = [measure(c) for c in candidates]
    best = min((value for value in values if value is not None), default=guess)
    return [
        best if value is None else fade(value, best, 0.0 if c.in_flight else c.idle_s)
        for c, value in zip(candidates, values, strict=True)
    ]

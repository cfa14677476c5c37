"""The node that is expected to give the first token soonest."""

from collections.abc import Sequence

from deployment.engines.placement import Ask, Candidate

# Guesses until the first answer teaches better. Small, so that a new node is tried.
_SERVICE_S = 1.0
_OVERHEAD_S = 0.05
_CHAR_S = 0.0001
_LOAD_S = 5.0


class LeastExpectedTtft:
    """Wait for a slot + load + overhead + the prompt's part that is not in the node's cache.

    The cache counts only on nodes whose wait is within `affinity_s` of the shortest: so much load is traded for it.
    """

    patient = True

    def __init__(self, affinity_s: float) -> None:
        self._affinity_s = affinity_s

    def rank(self, candidates: Sequence[Candidate], ask: Ask) -> list[float]:
        """Expected seconds to the first token."""
        service = _known([c.service_s for c in candidates], _SERVICE_S)
        overhead = _known([c.overhead_s for c in candidates], _OVERHEAD_S)
        char = _known([c.char_s for c in candidates], _CHAR_S)
        load = _known([c.load_s for c in candidates], _LOAD_S)
        delays = [_delay(c, service, load) for c in candidates]
        bound = min(delays) + self._affinity_s
        costs = []
        for c, delay in zip(candidates, delays, strict=True):
            fresh = ask.chars - (c.matched_chars if delay <= bound else 0)
            # A node that already works on something gives its tokens slower: near-equals share the work.
            busy = 1.0 + min(c.in_flight / c.slots, 1.0)
            reading = fresh * (char if c.char_s is None else c.char_s)
            costs.append(delay + busy * (overhead if c.overhead_s is None else c.overhead_s) + reading)
        return costs


def _delay(c: Candidate, service: float, load: float) -> float:
    """Seconds until the node begins with the prompt."""
    ahead = c.in_flight - c.slots + 1
    wait = ahead * (service if c.service_s is None else c.service_s) / c.slots if ahead > 0 else 0.0
    return wait if c.loaded else wait + (load if c.load_s is None else c.load_s)


def _known(values: Sequence[float | None], guess: float) -> float:
    """What is assumed of a node that nothing is known of: the mean of the others."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else guess

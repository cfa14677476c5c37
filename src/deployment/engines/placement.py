"""Which node takes a request, or whether it waits: filter, score, pick. Pure, on snapshots of the nodes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

_SOON_S = 0.001  # no use to wait less


class Candidate(NamedTuple):
    """A node, for one request, at one moment. Times in seconds; None where nothing is known yet."""

    name: str
    in_flight: int = 0
    slots: int = 1
    capacity: int = 1
    """Slots and look-ahead."""
    healthy: bool = True
    """The last check went well, or none was made yet, and the breaker is closed."""
    has_release: bool = True
    """As far as we know."""
    loaded: bool = True
    draining: bool = False
    region: str | None = None
    weight: float = 1.0
    matched_chars: float = 0.0
    """Beginning of the prompt that is expected to be in the node's cache."""
    service_s: float | None = None
    overhead_s: float | None = None
    char_s: float | None = None
    load_s: float | None = None
    idle_s: float = 0.0
    """Since its last answer."""
    picked: float = 0.0
    """Requests placed on it, over its weight."""
    picked_last: int = 0
    turns: float | None = None
    """Not the node as it is now, but the wait for a busy slot of it that holds more: so many services of a slot."""

    @property
    def free(self) -> bool:
        """Whether it takes one more now."""
        return self.turns is None and self.in_flight < self.capacity


@dataclass(slots=True)
class Ask:
    """What placement needs to know of a request."""

    release: str
    chars: int = 0
    hashes: Sequence[int] = ()
    session: str | None = None
    excluded: set[str] = field(default_factory=set)
    """Nodes that failed this request."""


class Policy(Protocol):
    """How to choose among nodes that are equally fit."""

    def rank(self, candidates: Sequence[Candidate], ask: Ask) -> list[float]:
        """A number for each, the lowest first. Seconds where `patient`."""
        ...

    @property
    def patient(self) -> bool:
        """Whether to wait for a better node that is full, as long as that is expected to be sooner."""
        ...


class Decision(NamedTuple):
    """`node` None: wait, at most `patience_s` (None: until something changes)."""

    node: str | None
    patience_s: float | None = None


def fit(candidates: Iterable[Candidate], ask: Ask, region: str | None) -> list[Candidate]:
    """The nodes to choose from, full ones among them.

    Draining and excluded ones never. Of the others the least bad: healthy and holding the release, else not
    healthy, else without the release: when all are bad, trying beats refusing. Of those the own region, unless
    it is full, or has yet to load what another has loaded.
    """
    open_to = [c for c in candidates if not c.draining and c.name not in ask.excluded]
    if len(open_to) <= 1:
        return open_to
    least = min(_badness(c) for c in open_to)
    open_to = [c for c in open_to if _badness(c) == least]
    if region is not None:
        local = [c for c in open_to if c.region == region]
        free = [c for c in local if c.free]
        if any(c.loaded for c in free) or (free and not any(c.free and c.loaded for c in open_to)):
            return local
    return open_to


def decide(candidates: Sequence[Candidate], ask: Ask, policy: Policy, waited_s: float) -> Decision:
    """Take a node now or wait. `candidates` come from `fit`.

    A patient request waits for a full node only as long as the wait is expected to be shorter than the loss on
    the best free one, counted from when it began to wait, so that a wrong expectation costs at most that.
    """
    free = [c for c in candidates if c.free]
    if not free:
        return Decision(None)
    if len(candidates) == 1:
        return Decision(free[0].name)
    if not policy.patient:  # it does not weigh a load against a wait
        free = [c for c in free if c.loaded] or free
    if not policy.patient or len(free) == len(candidates):
        return Decision(_best(free, policy.rank(free, ask))[0].name)
    costs = policy.rank(candidates, ask)
    best, cost = _best(candidates, costs)
    if best.free:
        return Decision(best.name)
    pairs = [(c, x) for c, x in zip(candidates, costs, strict=True) if c.free]
    second, second_cost = _best([c for c, _ in pairs], [x for _, x in pairs])
    patience = second_cost - cost - waited_s
    return Decision(second.name) if patience < _SOON_S else Decision(None, patience)


def _badness(c: Candidate) -> int:
    return (0 if c.healthy else 1) + (0 if c.has_release else 2)


def _best(candidates: Sequence[Candidate], costs: Sequence[float]) -> tuple[Candidate, float]:
    """The lowest; of equals the least loaded, of those the one that waited longest."""
    index = min(
        range(len(candidates)),
        key=lambda i: (costs[i], candidates[i].in_flight / candidates[i].slots, candidates[i].picked_last),
    )
    return candidates[index], costs[index]

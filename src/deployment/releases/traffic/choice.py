"""Which release answers a request. Pure: the same caller, draw and split give the same release."""

from dataclasses import dataclass
from hashlib import blake2b

from deployment.errors import ModelNotFound
from deployment.releases.traffic.model import PinKind, Share, Split, Sticky

PIN_HEADER = "x-ramsey-release-pin"
_CLUSTER_BYTES = 6


@dataclass(frozen=True, slots=True)
class Caller:
    """What a choice may look at."""

    key: str
    """The principal's id."""
    tenant: str
    session: str | None = None
    pin: str | None = None
    """What the header X-Ramsey-Release-Pin says."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The release that answers."""

    release: str
    weight: float | None = None
    """The probability of the candidate when the request arrived; None where nothing was drawn for it (a pin, a tag),
    or where there is no candidate."""
    pinned: bool = False
    cluster: str | None = None
    """Tells sticky callers apart: the requests of one are one sample, not many."""


class Route:
    """A split made ready for many choices."""

    __slots__ = ("_by_key", "_by_tenant", "_header", "_line", "_sticky", "_weight", "only", "split")

    def __init__(self, split: Split) -> None:
        self.split = split
        self._weight = split.weight(split.candidate) if split.candidate is not None else None
        # The candidate's part begins at 0, so that who has it keeps it while its weight grows.
        ordered = sorted(split.shares, key=lambda share: share.release != split.candidate)
        self._line = _line([share for share in ordered if share.weight > 0])
        by = {kind: {pin.value: pin.release for pin in split.pins if pin.kind is kind} for kind in PinKind}
        self._header, self._by_key, self._by_tenant = by[PinKind.HEADER], by[PinKind.KEY], by[PinKind.TENANT]
        self._sticky = split.sticky
        simple = len(self._line) == 1 and not (self._by_key or self._by_tenant)
        clustered = split.rollout is not None and split.sticky is not Sticky.NONE
        self.only = Choice(self._line[0][1], self._weight) if simple and not clustered else None
        """What everybody gets who sends no pin, where that is one release."""

    def choose(self, caller: Caller, draw: float) -> Choice:
        """`draw` is a random number from 0 to below 1. Raises ModelNotFound for a pin to what is not in the split."""
        if caller.pin is None and self.only is not None:
            return self.only
        if (pinned := self.pinned(caller)) is not None:
            return pinned
        value = caller.session if self._sticky is Sticky.SESSION else caller.key if self._sticky is Sticky.KEY else None
        cluster = None
        if value is not None:
            number = _number(self.split.salt, self._sticky, value)
            draw, cluster = number / 2**64, f"{number:016x}"[: 2 * _CLUSTER_BYTES]
        for end, release in self._line:
            if draw < end:
                return Choice(release, self._weight, False, cluster)
        return Choice(self._line[-1][1], self._weight, False, cluster)

    def pinned(self, caller: Caller) -> Choice | None:
        """Where the caller is pinned to; the header goes before the key, the key before the tenant."""
        if caller.pin is not None:
            return Choice(self._pinned(caller.pin), None, True)
        release = self._by_key.get(caller.key) or self._by_tenant.get(caller.tenant)
        return Choice(release, None, True) if release is not None else None

    def _pinned(self, wish: str) -> str:
        """A named pin, or a release that any caller may ask for, by its tag or whole name.

        Anything else is refused: who asks for one release and silently gets another is deceived.
        """
        named = self._header.get(wish)
        if named is not None:
            return named
        release = wish if ":" in wish else f"{self.split.model}:{wish}"
        if release.lower() in self.split.callable:
            return release.lower()
        there = ", ".join(sorted({*self._header, *(name.partition(":")[2] for name in self.split.callable)}))
        raise ModelNotFound(
            f"X-Ramsey-Release-Pin: {wish[:80]!r} is no release with traffic, nor a pin of {self.split.model}.",
            hint=f"There is: {there}. Without the header the traffic decides.",
        )


def choose(split: Split, caller: Caller, draw: float) -> Choice:
    """One choice; where many are made, a Route saves making it ready each time."""
    return Route(split).choose(caller, draw)


def _line(shares: list[Share]) -> list[tuple[float, str]]:
    """Where each release's part of the line from 0 to 1 ends."""
    ends, end = [], 0.0
    for share in shares:
        end += share.weight
        ends.append((end, share.release))
    return ends


def _number(salt: str, sticky: Sticky, value: str) -> int:
    """64 evenly spread bits."""
    text = f"{salt}\0{sticky.value}\0{value}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big")

"""The nouns of limits.

A limit over a minute slides: the minute is cut into 12 slices, and what was taken in a slice counts until the
whole slice is a minute old. So no 60 seconds ever hold more than the limit, at the price of up to 5 seconds.
A budget is for a calendar day or month, by UTC; its counter carries the period in its name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from math import ceil
from typing import Protocol

from deployment.errors import RateLimited

SLICES = 12
KEPT = SLICES + 1
"""A slice is forgotten once this many later ones have begun."""
WAIT_FOR_SLOT_S = 1.0
"""When to come back for a place among the concurrent ones: nobody knows when one ends."""


class Kind(StrEnum):
    """What is counted."""

    REQUESTS = "requests/min"
    TOKENS = "tokens/min"
    CONCURRENT = "concurrent requests"
    DAY = "tokens/day"
    MONTH = "tokens/month"


TOKEN_KINDS = frozenset({Kind.TOKENS, Kind.DAY, Kind.MONTH})


@dataclass(frozen=True, slots=True)
class Rule:
    """One limit of one subject, and the counter that it is held on."""

    scope: str
    """`key`, `tenant` or `model`."""
    kind: Kind
    amount: int
    counter: str
    """Name of the counter; what is between braces decides which Redis holds it, and is the tenant."""
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    """The period of a budget; None for other limits."""

    @property
    def name(self) -> str:
        """As errors and headers name it, for instance `key requests/min`."""
        return f"{self.scope} {self.kind.value}"

    @property
    def window_s(self) -> float:
        """Seconds that it looks back, or the length of a budget's period; 0 for concurrent requests."""
        if self.starts_at is not None and self.ends_at is not None:
            return (self.ends_at - self.starts_at).total_seconds()
        return 0.0 if self.kind is Kind.CONCURRENT else 60.0


@dataclass(frozen=True, slots=True)
class Charge:
    """What a request asks of one limit."""

    rule: Rule
    amount: int


@dataclass(frozen=True, slots=True)
class LimitFact:
    """Where a caller stands with one limit."""

    name: str
    limit: int
    remaining: int
    reset_s: float
    """Until some of it comes back."""
    window_s: float


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large a request may be; None for as large as the server takes."""

    max_prompt_chars: int | None = None
    max_output_tokens: int | None = None


class LimitReached(RateLimited):
    """The caller is over one of its limits."""

    def __init__(self, fact: LimitFact, facts: Sequence[LimitFact], retry_after_s: float | None, hint: str) -> None:
        super().__init__(f"The limit of {fact.limit} {fact.name} is reached.", hint=hint, retry_after_s=retry_after_s)
        self.limit = fact.name
        self.facts = tuple(facts)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the counters say to some charges: all of them taken, or none."""

    refused_by: int | None
    """Which charge could not be taken; the one that has to wait longest."""
    retry_after_s: float
    facts: tuple[LimitFact, ...]
    slices: tuple[int, ...]
    """When each was taken, for giving back."""
    holder: "Counters"
    """Who took them, to whom they are given back."""


@dataclass(frozen=True, slots=True)
class Return:
    """What goes back to a counter (or, when negative, what was used beyond the charge)."""

    rule: Rule
    slice: int
    amount: int


class Counters(Protocol):
    """Where limits are counted."""

    async def take(self, charges: Sequence[Charge], lease: str) -> Verdict:
        """Take all charges or none, as one step that nobody else comes between."""
        ...

    def give_back(self, returns: Sequence[Return], lease: str) -> None:
        """Give back at once or soon; never waits and never fails."""
        ...


def ratelimit_headers(facts: Sequence[LimitFact]) -> dict[str, str]:
    """`RateLimit-Limit`, `-Remaining` and `-Reset` of the limit that is nearest, and every `RateLimit-Policy`.

    As in draft-ietf-httpapi-ratelimit-headers-03, which clients know. Empty without limits.
    """
    timed = [fact for fact in facts if fact.window_s]
    if not timed:
        return {}
    nearest = min(timed, key=lambda fact: fact.remaining / fact.limit if fact.limit else 0.0)
    return {
        "RateLimit-Limit": str(nearest.limit),
        "RateLimit-Remaining": str(nearest.remaining),
        "RateLimit-Reset": str(ceil(nearest.reset_s)),
        "RateLimit-Policy": ", ".join(f'{fact.limit};w={fact.window_s:.0f};name="{fact.name}"' for fact in timed),
    }

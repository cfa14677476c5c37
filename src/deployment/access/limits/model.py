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
from deployment.settings import Price

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
    MONEY_DAY = "money/day"
    MONEY_MONTH = "money/month"


TOKEN_KINDS = frozenset({Kind.TOKENS, Kind.DAY, Kind.MONTH})
MONEY_UNIT = 1_000_000
"""Money is counted in millionths, for counters are whole numbers."""


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
    price: Price | None = None
    """What the model costs, for a budget of money."""

    def most(self, tokens: int) -> int:
        """What a request may use of it at most, that may use so many tokens: each at the higher price."""
        if self.price is not None:
            return _money(tokens * max(self.price.prompt, self.price.completion))
        return tokens if self.kind in TOKEN_KINDS else 1

    def tokens_of(self, amount: int) -> int | None:
        """The most tokens that are sure to fit in so much of it; None where it does not limit tokens."""
        if self.price is None:
            return amount if self.kind in TOKEN_KINDS else None
        dearer = max(self.price.prompt, self.price.completion)
        if not dearer:
            return None
        tokens = int(amount * 1000 / MONEY_UNIT / dearer)
        return tokens if self.most(tokens) <= amount else tokens - 1

    def used(self, prompt_tokens: int, completion_tokens: int) -> int:
        """What a request that was served used of it, beyond its end."""
        if self.price is not None:
            return _money(prompt_tokens * self.price.prompt + completion_tokens * self.price.completion)
        if self.kind in TOKEN_KINDS:
            return prompt_tokens + completion_tokens
        return 1 if self.kind is Kind.REQUESTS else 0

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

    @property
    def is_money(self) -> bool:
        """Whether it is counted in millionths of money."""
        return self.name.endswith(("money/day", "money/month"))

    @property
    def amounts(self) -> tuple[float, float]:
        """Limit and what remains of it, as people count."""
        unit = MONEY_UNIT if self.is_money else 1
        return self.limit / unit, self.remaining / unit


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large a request may be; None for as large as the server takes."""

    max_prompt_chars: int | None = None
    max_output_tokens: int | None = None


class LimitReached(RateLimited):
    """The caller is over one of its limits."""

    def __init__(
        self, message: str, hint: str, retry_after_s: float | None, limit: str, facts: Sequence[LimitFact]
    ) -> None:
        """`retry_after_s` is None where the request can never fit."""
        super().__init__(message, hint=hint, retry_after_s=retry_after_s)
        self.limit = limit
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


def ratelimit_headers(facts: Sequence[LimitFact], refused_by: str | None = None) -> dict[str, str]:
    """`RateLimit-Limit`, `-Remaining` and `-Reset` of the limit that is nearest, or that refused, and every
    `RateLimit-Policy`.

    As in draft-ietf-httpapi-ratelimit-headers-03, which clients know. Empty without limits. Budgets of money are
    not in them: clients count requests and tokens.
    """
    timed = [fact for fact in facts if fact.window_s and not fact.is_money]
    if not timed:
        return {}
    refusing = [fact for fact in timed if fact.name == refused_by]
    nearest = min(refusing or timed, key=lambda fact: fact.remaining / fact.limit if fact.limit else 0.0)
    return {
        "RateLimit-Limit": str(nearest.limit),
        "RateLimit-Remaining": str(nearest.remaining),
        "RateLimit-Reset": str(ceil(nearest.reset_s)),
        "RateLimit-Policy": ", ".join(f'{fact.limit};w={fact.window_s:.0f};name="{fact.name}"' for fact in timed),
    }


def _money(thousandths: float) -> int:
    """In millionths, rounded up: from tokens times a price for 1,000 of them."""
    return ceil(round(thousandths * MONEY_UNIT / 1000, 3))

"""What a caller over a limit is told: how much is left, until when, and what would fit. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from deployment.access.limits.model import MONEY_UNIT, Charge, LimitFact, LimitReached, Verdict


class Answer(NamedTuple):
    """The part of a request's tokens that its caller can bound."""

    tokens: int
    field: str
    """What the bound is called in the caller's dialect, for instance `max_tokens`."""


@dataclass(frozen=True, slots=True)
class _Told:
    """One refused request."""

    charges: Sequence[Charge]
    verdict: Verdict
    tokens: int
    answer: Answer | None
    more: str
    """Who can give more."""

    def reached(self) -> LimitReached:
        told = zip(self.charges, self.verdict.facts, strict=True)
        never = [index for index, (charge, fact) in enumerate(told) if charge.amount > fact.limit]
        at = never[0] if never else self.verdict.refused_by or 0
        charge, fact = self.charges[at], self.verdict.facts[at]
        retry_after_s = None if never else self.verdict.retry_after_s
        if charge.rule.tokens_of(charge.amount) is None or (fact.remaining == 0 and not never):
            message = f"The limit of {_amount(fact, fact.limit)} {fact.name} is reached."
            hint = f"Try again {self._when(charge)}, or {self.more.format(scope=charge.rule.scope)}."
        else:
            message = (
                f"The request may {self._need(charge, fact)}, and {_amount(fact, fact.remaining)} of "
                f"{_amount(fact, fact.limit)} {fact.name} are left{_until(charge)}."
            )
            hint = self._hint(charge, possible=not never)
        return LimitReached(message, hint, retry_after_s, fact.name, self.verdict.facts)

    def _need(self, charge: Charge, fact: LimitFact) -> str:
        need = f"use up to {self.tokens} tokens"
        if self.answer is not None:
            prompt = self.tokens - self.answer.tokens
            need += f" ({prompt} for the prompt, {self.answer.tokens} for the answer)"
        return f"cost up to {_amount(fact, charge.amount)}: it may {need}" if fact.is_money else need

    def _hint(self, charge: Charge, *, possible: bool) -> str:
        """What would fit: now, later, or only when it is shorter."""
        now = self._room(fact.remaining for fact in self.verdict.facts)
        later = self._room(fact.limit for fact in self.verdict.facts)
        if self.answer is not None and now >= 1:
            lower = f"Set {self.answer.field} to at most {now}"
            return f"{lower}, or try again {self._when(charge)}." if possible else f"{lower}."
        if possible:
            return f"Try again {self._when(charge)}."
        if self.answer is not None and later >= 1:
            return f"Set {self.answer.field} to at most {later}, and try again {self._when(charge)}."
        return "Shorten the prompt." if self.answer is not None else "Send less text at once."

    def _room(self, amounts: Iterable[int]) -> int:
        """The longest answer for which so much of each limit is enough."""
        fitting = [charge.rule.tokens_of(amount) for charge, amount in zip(self.charges, amounts, strict=True)]
        prompt = self.tokens - (self.answer.tokens if self.answer is not None else 0)
        return min(each for each in fitting if each is not None) - prompt

    def _when(self, charge: Charge) -> str:
        if charge.rule.ends_at is not None:
            return f"after {charge.rule.ends_at:%Y-%m-%d %H:%M} UTC"
        if not charge.rule.window_s:
            return "when one of them has ended"
        return f"in {max(1, ceil(self.verdict.retry_after_s or charge.rule.window_s))} s"


def refusal(
    charges: Sequence[Charge], verdict: Verdict, tokens: int, answer: Answer | None, *, anonymous: bool
) -> LimitReached:
    """The error for charges that were refused, of a request that may use so many `tokens`, those of `answer` among
    them. Who is `anonymous` works on this machine, and has no key that could have limits of its own."""
    more = "raise limits.{scope} in the settings" if anonymous else "ask an administrator for more"
    return _Told(charges, verdict, tokens, answer, more).reached()


def _until(charge: Charge) -> str:
    ends_at = charge.rule.ends_at
    return f" until {ends_at:%Y-%m-%d %H:%M} UTC" if ends_at is not None else ""


def _amount(fact: LimitFact, amount: int) -> str:
    """As people count, with every digit."""
    if not fact.is_money:
        return str(amount)
    return f"{amount / MONEY_UNIT:.6f}".rstrip("0").rstrip(".")

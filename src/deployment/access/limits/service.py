"""Reserve before the work, settle after it, give back when there was none."""

import itertools
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from deployment.access.limits.model import Charge, Counters, LimitFact, Return, Rule, Sizes, Verdict
from deployment.access.limits.refusal import Answer, refusal
from deployment.access.limits.rules import RuleBook
from deployment.access.model import Principal

_MOST_ALERTED = 10_000
Spent = Callable[[Rule, LimitFact], None]


class Reservation:
    """What a request took of its limits. End it once, with `settle` or `release`; a second end does nothing.

    As a context manager it releases what was not settled.
    """

    __slots__ = ("_charges", "_lease", "_spent", "_verdict", "facts")

    def __init__(self, charges: Sequence[Charge], lease: str, verdict: Verdict | None, spent: Spent) -> None:
        """`spent` hears of every budget that was used."""
        self._charges = charges
        self._lease = lease
        self._verdict = verdict
        self._spent = spent
        self.facts: tuple[LimitFact, ...] = verdict.facts if verdict is not None else ()
        """Where the caller stands with each of its limits; for headers."""

    def settle(self, prompt_tokens: int, completion_tokens: int = 0) -> None:
        """The request was served and used so many tokens."""
        self._end((prompt_tokens, completion_tokens))

    def release(self) -> None:
        """The request was not served, by no fault of the caller: it counts for nothing."""
        self._end(None)

    def __enter__(self) -> "Reservation":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _end(self, served: tuple[int, int] | None) -> None:
        verdict, self._verdict = self._verdict, None
        if verdict is None:
            return
        returns = []
        for charge, at, fact in zip(self._charges, verdict.slices, verdict.facts, strict=True):
            kept = charge.rule.used(*served) if served is not None else 0
            if charge.amount != kept:
                returns.append(Return(charge.rule, at, charge.amount - kept))
            if served is not None and charge.rule.ends_at is not None:
                self._spent(charge.rule, replace(fact, remaining=fact.remaining + charge.amount - kept))
        if returns:
            verdict.holder.give_back(returns, self._lease)


_FREE = Reservation((), "", None, lambda _rule, _fact: None)


class Limits:
    """The limits of all callers."""

    def __init__(self, book: RuleBook, counters: Counters, alert_at: float = 0.8) -> None:
        self._alert_at = alert_at
        self._alerted: dict[str, int] = {}
        self._log = structlog.get_logger("deployment.access.limits")
        self._book = book
        self._counters = counters
        self._process = secrets.token_hex(8)
        self._numbers = itertools.count()

    def sizes(self, principal: Principal, model: str) -> Sizes:
        """How large a request may be."""
        return self._book.sizes(principal, model)

    async def reserve(
        self, principal: Principal, model: str, est_tokens: int, answer: Answer | None = None
    ) -> Reservation:
        """Take a request and `est_tokens` (the most that it may use: prompt and answer) of every limit, or none.

        Raises LimitReached, which says what is left, when to come back and, by `answer`, what would fit.
        """
        rules = self._book.rules(principal, model)
        if not rules:
            return _FREE
        charges = [Charge(rule, rule.most(est_tokens)) for rule in rules]
        lease = f"{self._process}-{next(self._numbers)}"
        verdict = await self._counters.take(charges, lease)
        if verdict.refused_by is not None:
            raise refusal(charges, verdict, est_tokens, answer, anonymous=principal.anonymous)
        return Reservation(charges, lease, verdict, self._alert)

    def _alert(self, rule: Rule, fact: LimitFact) -> None:
        """Say once in its period that a budget is nearly used up, by what was used: what is only reserved mostly
        comes back."""
        if fact.remaining > fact.limit * (1 - self._alert_at):
            return
        if len(self._alerted) > _MOST_ALERTED:
            self._alerted.clear()
        if self._alerted.get(rule.counter) != fact.limit:
            self._alerted[rule.counter] = fact.limit
            limit, remaining = fact.amounts
            self._log.warning("budget_nearly_used", budget=rule.counter, limit=limit, remaining=remaining)

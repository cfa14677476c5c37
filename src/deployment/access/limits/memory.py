"""Limits counted in this process: exact, for nothing else runs between the look and the taking."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from deployment.access.limits.model import KEPT, SLICES, WAIT_FOR_SLOT_S, Charge, Kind, LimitFact, Return, Rule, Verdict
from deployment.clock import Clock

_SWEEP_S = 60.0


class _Window:
    """What was taken in the last minute, by slice, oldest first."""

    __slots__ = ("slices", "total")

    def __init__(self) -> None:
        self.slices: deque[list[int]] = deque()
        self.total = 0

    def forget(self, current: int) -> None:
        while self.slices and self.slices[0][0] <= current - KEPT:
            self.total -= self.slices.popleft()[1]

    def add(self, current: int, amount: int) -> None:
        if self.slices and self.slices[-1][0] == current:
            self.slices[-1][1] += amount
        else:
            self.slices.append([current, amount])
        self.total += amount

    def subtract(self, at: int, amount: int) -> None:
        for entry in self.slices:
            if entry[0] == at:
                less = min(amount, entry[1])
                entry[1] -= less
                self.total -= less

    def free_at(self, needed: int) -> int | None:
        """The slice with whose end so much has come back."""
        for at, amount in self.slices:
            needed -= amount
            if needed <= 0:
                return at
        return None


@dataclass(slots=True)
class Spending:
    """What is used of a budget."""

    counter: str
    tokens: int
    ends_at: datetime


class MemoryCounters:
    """Counters of one process, which gives its share of each limit where several `gateways` share them."""

    def __init__(self, clock: Clock, gateways: int = 1) -> None:
        self._clock = clock
        self._gateways = gateways
        self._windows: dict[str, _Window] = {}
        self._held: dict[str, int] = {}
        self._spent: dict[str, Spending] = {}
        self._changed: set[str] = set()
        self._sweep_at = 0.0

    async def take(self, charges: Sequence[Charge], lease: str) -> Verdict:
        """Take all charges or none. Never gives up control."""
        return self.take_now(charges)

    def take_now(self, charges: Sequence[Charge]) -> Verdict:
        """The same, for callers that are not asynchronous."""
        charges = self._shares(charges) if self._gateways > 1 else charges
        now = self._clock.monotonic()
        if now >= self._sweep_at:
            self._sweep(now)
        refused_by, longest = None, 0.0
        for index, charge in enumerate(charges):
            wait = self._wait(charge, now)
            if wait > longest:
                refused_by, longest = index, wait
        if refused_by is None:
            for charge in charges:
                self._add(charge, now)
        return Verdict(
            refused_by=refused_by,
            retry_after_s=longest,
            facts=tuple([self._fact(charge.rule, now) for charge in charges]),
            slices=tuple([_slice(charge.rule, now) for charge in charges]),
            holder=self,
        )

    def give_back(self, returns: Sequence[Return], lease: str) -> None:
        """Give back at once."""
        for item in returns:
            rule = item.rule
            if rule.kind is Kind.CONCURRENT:
                left = self._held.get(rule.counter, 0) - item.amount
                if left > 0:
                    self._held[rule.counter] = left
                else:
                    self._held.pop(rule.counter, None)
            elif rule.ends_at is not None:
                if rule.counter in self._spent:
                    self._spent[rule.counter].tokens -= item.amount
                    self._changed.add(rule.counter)
            elif (window := self._windows.get(rule.counter)) is not None:
                window.subtract(item.slice, item.amount)

    def spending(self) -> list[Spending]:
        """The budgets that changed since the last call, to be written down."""
        changed, self._changed = self._changed, set()
        return [self._spent[counter] for counter in changed if counter in self._spent]

    def again(self, spendings: Iterable[Spending]) -> None:
        """These could not be written: they are still to be."""
        self._changed.update(spending.counter for spending in spendings)

    def take_up(self, spending: Spending) -> None:
        """So much was spent elsewhere, besides what was spent here."""
        here = self._spent.setdefault(spending.counter, Spending(spending.counter, 0, spending.ends_at))
        here.tokens += spending.tokens

    def _shares(self, charges: Sequence[Charge]) -> list[Charge]:
        return [
            replace(charge, rule=replace(charge.rule, amount=max(1, charge.rule.amount // self._gateways)))
            for charge in charges
        ]

    def _wait(self, charge: Charge, now: float) -> float:
        """Seconds until the charge can be taken; 0 for now."""
        rule = charge.rule
        if rule.kind is Kind.CONCURRENT:
            return 0.0 if self._held.get(rule.counter, 0) + charge.amount <= rule.amount else WAIT_FOR_SLOT_S
        if rule.ends_at is not None:
            spent = self._spent.get(rule.counter)
            fits = (spent.tokens if spent is not None else 0) + charge.amount <= rule.amount
            return 0.0 if fits else self._until(rule.ends_at)
        window = self._windows.get(rule.counter)
        if window is None:
            return 0.0 if charge.amount <= rule.amount else rule.window_s
        window.forget(_slice(rule, now))
        over = window.total + charge.amount - rule.amount
        if over <= 0:
            return 0.0
        free_at = window.free_at(over)
        return rule.window_s if free_at is None else _end(rule, free_at) - now

    def _add(self, charge: Charge, now: float) -> None:
        rule = charge.rule
        if rule.kind is Kind.CONCURRENT:
            self._held[rule.counter] = self._held.get(rule.counter, 0) + charge.amount
            return
        if rule.ends_at is not None:
            self._spent.setdefault(rule.counter, Spending(rule.counter, 0, rule.ends_at)).tokens += charge.amount
            self._changed.add(rule.counter)
            return
        window = self._windows.get(rule.counter)
        if window is None:
            window = self._windows[rule.counter] = _Window()
        window.add(_slice(rule, now), charge.amount)

    def _fact(self, rule: Rule, now: float) -> LimitFact:
        if rule.kind is Kind.CONCURRENT:
            return LimitFact(rule.name, rule.amount, max(0, rule.amount - self._held.get(rule.counter, 0)), 0.0, 0.0)
        if rule.ends_at is not None:
            left = (
                max(0, rule.amount - self._spent[rule.counter].tokens) if rule.counter in self._spent else rule.amount
            )
            return LimitFact(rule.name, rule.amount, left, self._until(rule.ends_at), rule.window_s)
        window = self._windows.get(rule.counter)
        if window is None or not window.slices:
            return LimitFact(rule.name, rule.amount, rule.amount, 0.0, rule.window_s)
        reset = _end(rule, window.slices[0][0]) - now
        return LimitFact(rule.name, rule.amount, max(0, rule.amount - window.total), reset, rule.window_s)

    def _sweep(self, now: float) -> None:
        """Forget who has not called for a minute: callers come and go."""
        self._sweep_at = now + _SWEEP_S
        for counter, window in list(self._windows.items()):
            window.forget(int(now * SLICES / 60.0))
            if not window.slices:
                del self._windows[counter]
        for counter, spent in list(self._spent.items()):
            if self._until(spent.ends_at) < -_SWEEP_S:  # what is in flight may yet settle
                del self._spent[counter]

    def _until(self, moment: datetime) -> float:
        return (moment - self._clock.now()).total_seconds()


def _slice(rule: Rule, now: float) -> int:
    return int(now * SLICES / rule.window_s) if rule.window_s else 0


def _end(rule: Rule, at: int) -> float:
    """When what was taken in a slice no longer counts."""
    return (at + KEPT) * rule.window_s / SLICES

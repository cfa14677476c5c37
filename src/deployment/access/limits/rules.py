"""Which limits hold for a request."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta

from deployment.access.directory import Directory
from deployment.access.limits.model import MONEY_UNIT, Kind, Rule, Sizes
from deployment.access.model import Principal
from deployment.clock import Clock
from deployment.settings import LimitSet, LimitsSettings, Price

_MOST_REMEMBERED = 10_000


class RuleBook:
    """Turns settings and stored limits into the rules of a caller and model, and remembers them."""

    def __init__(self, settings: LimitsSettings, clock: Clock, directory: Directory | None = None) -> None:
        self._settings = settings
        self._clock = clock
        self._today = clock.now().date()
        self._directory = Directory() if directory is None else directory
        self._version = self._directory.version
        self._known: dict[tuple[str, str, str], tuple[Rule, ...]] = {}

    def rules(self, principal: Principal, model: str) -> tuple[Rule, ...]:
        """The rules for a request of this caller to this model: its own, its tenant's, the tenant's on the model."""
        today = self._clock.now().date()
        if self._version != self._directory.version or self._today != today:
            self._version, self._today = self._directory.version, today
            self._known.clear()
        who = (principal.tenant, principal.id, model)
        rules = self._known.get(who)
        if rules is None:
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            rules = self._known[who] = tuple(self._make(*who))
        return rules

    def sizes(self, principal: Principal, model: str) -> Sizes:
        """How large a request may be: the least of what its key, tenant and model allow."""
        sets = (
            self._of("key", principal.id),
            self._of("tenant", principal.tenant),
            self._of("model", model),
        )
        return Sizes(
            _least(limits.max_prompt_chars for limits in sets), _least(limits.max_output_tokens for limits in sets)
        )

    def _of(self, scope: str, subject: str) -> LimitSet:
        stored = self._directory.limits.get((scope, subject))
        default: LimitSet = getattr(self._settings, scope)
        return default if stored is None else stored

    def _make(self, tenant: str, caller: str, model: str) -> Iterable[Rule]:
        # The braces keep all counters of a tenant on one node of a Redis Cluster, as a script needs them.
        price = self._settings.prices.get(model) or self._settings.prices.get("*")
        for scope, subject, counter in (
            ("key", caller, f"{{{tenant}}}:key:{caller}"),
            ("tenant", tenant, f"{{{tenant}}}:tenant"),
            ("model", model, f"{{{tenant}}}:model:{model}"),
        ):
            limits = self._of(scope, subject)
            yield from _rules(scope, limits, counter)
            yield from _budgets(scope, limits, counter, self._today, price)


def _rules(scope: str, limits: LimitSet, subject: str) -> Iterable[Rule]:
    for kind, amount, suffix in (
        (Kind.REQUESTS, limits.requests_per_minute, "rpm"),
        (Kind.TOKENS, limits.tokens_per_minute, "tpm"),
        (Kind.CONCURRENT, limits.concurrent, "now"),
    ):
        if amount is not None:
            yield Rule(scope, kind, amount, f"{subject}:{suffix}")


def _budgets(scope: str, limits: LimitSet, subject: str, today: date, price: Price | None) -> Iterable[Rule]:
    first = today.replace(day=1)
    next_month = (first + timedelta(days=32)).replace(day=1)
    for kind, amount, starts, ends in (
        (Kind.DAY, limits.tokens_per_day, today, today + timedelta(days=1)),
        (Kind.MONTH, limits.tokens_per_month, first, next_month),
    ):
        if amount is not None:
            counter = f"{subject}:{kind.value.removeprefix('tokens/')}:{starts}"
            yield Rule(scope, kind, amount, counter, _midnight(starts), _midnight(ends))
    for kind, money, starts, ends in (
        (Kind.MONEY_DAY, limits.money_per_day, today, today + timedelta(days=1)),
        (Kind.MONEY_MONTH, limits.money_per_month, first, next_month),
    ):
        if money is not None and price is not None:
            counter = f"{subject}:{kind.value.replace('/', '-')}:{starts}"
            yield Rule(scope, kind, round(money * MONEY_UNIT), counter, _midnight(starts), _midnight(ends), price)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _least(values: Iterable[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)

"""Which limits hold for a request."""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta

from deployment.access.directory import Directory
from deployment.access.limits.model import MONEY_UNIT, Kind, Rule, Sizes
from deployment.access.model import Principal
from deployment.clock import Clock
from deployment.settings import LimitSet, LimitsSettings, Price

_MOST_REMEMBERED = 10_000

_Wanted = tuple[Kind, int, str, datetime | None, datetime | None, Price | None]
"""A limit: kind, amount, end of its counter's name, period, price."""


class RuleBook:
    """Turns settings and stored limits into the rules of a caller and model, and remembers them."""

    def __init__(self, settings: LimitsSettings, clock: Clock, directory: Directory | None = None) -> None:
        self._settings = settings
        self._clock = clock
        self._today = clock.now().date()
        self._directory = Directory() if directory is None else directory
        self._version = self._directory.version
        self._known: dict[tuple[str, str, str], tuple[Rule, ...]] = {}
        self._sizes: dict[tuple[str, str, str], Sizes] = {}
        self._usual: dict[tuple[str, str], Sequence[_Wanted]] = {}

    def rules(self, principal: Principal, model: str) -> tuple[Rule, ...]:
        """The rules for a request of this caller to this model: its own, its tenant's, the tenant's on the model."""
        today = self._clock.now().date()
        if self._today != today:
            self._today = today
            self._forget()
        who = self._remembered(principal, model)
        rules = self._known.get(who)
        if rules is None:
            rules = self._known[who] = tuple(self._make(*who))
        return rules

    def sizes(self, principal: Principal, model: str) -> Sizes:
        """How large a request may be: the least of what its key, tenant and model allow."""
        who = self._remembered(principal, model)
        sizes = self._sizes.get(who)
        if sizes is None:
            sets = (
                self._of("key", principal.id),
                self._of("tenant", principal.tenant),
                self._of("model", model),
            )
            sizes = self._sizes[who] = Sizes(
                _least(limits.max_prompt_chars for limits in sets), _least(limits.max_output_tokens for limits in sets)
            )
        return sizes

    def _remembered(self, principal: Principal, model: str) -> tuple[str, str, str]:
        """Under what name a caller's limits are remembered, until a limit changes or there are too many."""
        full = len(self._known) >= _MOST_REMEMBERED or len(self._sizes) >= _MOST_REMEMBERED
        if full or self._version != self._directory.version:
            self._version = self._directory.version
            self._forget()
        return principal.tenant, principal.id, model

    def _forget(self) -> None:
        self._known.clear()
        self._sizes.clear()
        self._usual.clear()

    def _of(self, scope: str, subject: str) -> LimitSet:
        stored = self._directory.limits.get((scope, subject))
        default: LimitSet = getattr(self._settings, scope)
        return default if stored is None else stored

    def _make(self, tenant: str, caller: str, model: str) -> Iterable[Rule]:
        # The braces keep all counters of a tenant on one node of a Redis Cluster, as a script needs them.
        for scope, subject, counter in (
            ("key", caller, f"{{{tenant}}}:key:{caller}"),
            ("tenant", tenant, f"{{{tenant}}}:tenant"),
            ("model", model, f"{{{tenant}}}:model:{model}"),
        ):
            for kind, amount, suffix, starts, ends, price in self._wanted(scope, subject, model):
                yield Rule(scope, kind, amount, f"{counter}:{suffix}", starts, ends, price)

    def _wanted(self, scope: str, subject: str, model: str) -> Sequence[_Wanted]:
        """What is limited. Most callers have the settings' limits, which are worked out once."""
        price = self._settings.prices.get(model) or self._settings.prices.get("*")
        if (scope, subject) in self._directory.limits:
            return _wanted(self._of(scope, subject), self._today, price)
        usual = self._usual.get((scope, model))
        if usual is None:
            usual = self._usual[scope, model] = _wanted(self._of(scope, subject), self._today, price)
        return usual


def _wanted(limits: LimitSet, today: date, price: Price | None) -> list[_Wanted]:
    first = today.replace(day=1)
    day = (_midnight(today), _midnight(today + timedelta(days=1)))
    month = (_midnight(first), _midnight((first + timedelta(days=32)).replace(day=1)))
    rolling: list[tuple[Kind, int | None, str]] = [
        (Kind.REQUESTS, limits.requests_per_minute, "rpm"),
        (Kind.TOKENS, limits.tokens_per_minute, "tpm"),
        (Kind.CONCURRENT, limits.concurrent, "now"),
    ]
    budgets: list[tuple[Kind, int | None, str, tuple[datetime, datetime], Price | None]] = [
        (Kind.DAY, limits.tokens_per_day, f"day:{today}", day, None),
        (Kind.MONTH, limits.tokens_per_month, f"month:{first}", month, None),
    ]
    if price is not None:
        for kind, money, period, when in (
            (Kind.MONEY_DAY, limits.money_per_day, f"money-day:{today}", day),
            (Kind.MONEY_MONTH, limits.money_per_month, f"money-month:{first}", month),
        ):
            budgets.append((kind, None if money is None else round(money * MONEY_UNIT), period, when, price))
    wanted: list[_Wanted] = [
        (kind, amount, name, None, None, None) for kind, amount, name in rolling if amount is not None
    ]
    return wanted + [
        (kind, amount, name, *when, cost) for kind, amount, name, when, cost in budgets if amount is not None
    ]


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _least(values: Iterable[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)

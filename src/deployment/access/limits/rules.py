"""Which limits hold for a request."""

from collections.abc import Iterable

from deployment.access.directory import Directory
from deployment.access.limits.model import Kind, Rule, Sizes
from deployment.access.model import Principal
from deployment.settings import LimitSet, LimitsSettings

_MOST_REMEMBERED = 10_000


class RuleBook:
    """Turns settings and stored limits into the rules of a caller and model, and remembers them."""

    def __init__(self, settings: LimitsSettings, directory: Directory | None = None) -> None:
        self._settings = settings
        self._directory = Directory() if directory is None else directory
        self._version = self._directory.version
        self._known: dict[tuple[str, str, str], tuple[Rule, ...]] = {}

    def rules(self, principal: Principal, model: str) -> tuple[Rule, ...]:
        """The rules for a request of this caller to this model: its own, its tenant's, the tenant's on the model."""
        if self._version != self._directory.version:
            self._version = self._directory.version
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
        yield from _rules("key", self._of("key", caller), f"{{{tenant}}}:key:{caller}")
        yield from _rules("tenant", self._of("tenant", tenant), f"{{{tenant}}}:tenant")
        yield from _rules("model", self._of("model", model), f"{{{tenant}}}:model:{model}")


def _rules(scope: str, limits: LimitSet, subject: str) -> Iterable[Rule]:
    for kind, amount, suffix in (
        (Kind.REQUESTS, limits.requests_per_minute, "rpm"),
        (Kind.TOKENS, limits.tokens_per_minute, "tpm"),
        (Kind.CONCURRENT, limits.concurrent, "now"),
    ):
        if amount is not None:
            yield Rule(scope, kind, amount, f"{subject}:{suffix}")


def _least(values: Iterable[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)

"""What is set of limits and keys and can hardly be meant: models that nobody serves, money that nothing costs.

It is warned of and not refused: a model may be served tomorrow.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress

import structlog

from deployment.access.directory import Directory
from deployment.access.model import KeyRecord
from deployment.background import going_on
from deployment.errors import DatabaseUnavailable
from deployment.settings import LimitSet, LimitsSettings, Price
from deployment.spelling import near

_EVERY_S = 5.0
_FEW = 3


def doubts(
    served: Collection[str],
    settings: LimitsSettings,
    stored: Mapping[tuple[str, str], LimitSet],
    keys: Iterable[KeyRecord],
    gateways: int = 1,
) -> list[str]:
    """A sentence for each. `served` are the models, `stored` the limits by scope and subject, `keys` those in use;
    so many `gateways` share them."""
    keys = list(keys)
    named = [(f"limits.prices has a price for {model}", model) for model in settings.prices if model != "*"]
    named += [(f"There are limits for the model {name}", name) for scope, name in stored if scope == "model"]
    named += [(f"{_keys(ids)} bound to the model {model}", model) for model, ids in _bound(keys).items()]
    unknown = [f"{what}, which is not served{_meant(model, served)}" for what, model in named if model not in served]
    free = _free(served, settings, stored, {key.public_id: key.models for key in keys})
    return [*unknown, *free, *_apart(settings, stored, gateways)]


def _apart(settings: LimitsSettings, stored: Mapping[tuple[str, str], LimitSet], gateways: int) -> Iterator[str]:
    """Limits that several gateways count apart."""
    given = (settings.key, settings.tenant, settings.model, *stored.values())
    if gateways > settings.gateways and settings.redis_url is None and any(limits.counted for limits in given):
        yield (
            f"{gateways} gateways share limits and budgets without limits.redis_url, and limits.gateways is "
            f"{settings.gateways}: together they may pass them."
        )


def _meant(model: str, served: Collection[str]) -> str:
    meant = near(model, served)
    return f"; did you mean {meant}?" if meant else f" (served: {', '.join(sorted(served))})."


def _bound(keys: Iterable[KeyRecord]) -> dict[str, list[str]]:
    """The public ids of the keys for each model that keys are bound to."""
    found: dict[str, list[str]] = {}
    for key in keys:
        for model in key.models:
            found.setdefault(model, []).append(key.public_id)
    return found


def _keys(ids: list[str]) -> str:
    if len(ids) == 1:
        return f"The key {ids[0]} is"
    more = f" and {len(ids) - _FEW} more" if len(ids) > _FEW else ""
    return f"The keys {', '.join(sorted(ids)[:_FEW])}{more} are"


def _free(
    served: Collection[str],
    settings: LimitsSettings,
    stored: Mapping[tuple[str, str], LimitSet],
    bound: Mapping[str, Collection[str]],
) -> Iterator[str]:
    """Budgets of money that some models do not draw on, for they have no price."""
    for scope in ("key", "tenant", "model"):
        yield from _unpriced(f"limits.{scope}", getattr(settings, scope), served, settings.prices)
    for (scope, subject), limits in stored.items():
        models = {"key": bound.get(subject) or served, "model": (subject,)}.get(scope, served)
        yield from _unpriced(f"The {scope} {subject}", limits, models, settings.prices)


def _unpriced(whose: str, limits: LimitSet, models: Iterable[str], prices: Mapping[str, Price]) -> Iterator[str]:
    if not (limits.money_per_day or limits.money_per_month) or "*" in prices:
        return
    if free := sorted(set(models) - prices.keys()):
        are = "has no price and is" if len(free) == 1 else "have no price and are"
        yield f"{whose} has a budget of money, but {', '.join(free)} {are} free (limits.prices)."


async def _one() -> int:
    return 1


class Doubts:
    """Warns in the log of each, once, whenever keys, limits or models change."""

    def __init__(self, settings: LimitsSettings, directory: Directory) -> None:
        self._settings, self._directory = settings, directory
        self._told: frozenset[str] = frozenset()
        self._gateways = 1
        self._seen: tuple[int, frozenset[str], int] | None = None
        self.served: Callable[[], Collection[str]] = lambda: ()
        """The models that have traffic."""
        self.gateways: Callable[[], Awaitable[int]] = _one
        """How many gateways there are. May raise DatabaseUnavailable."""

    async def look(self) -> None:
        """Warn of what is new. Before anything is served nothing can be said. Raises DatabaseUnavailable."""
        served = frozenset(self.served())
        if not served:
            return
        before, self._gateways = self._gateways, await self.gateways()
        seen = (self._directory.version, served, min(before, self._gateways))  # one that died seems to live for a while
        if seen == self._seen:
            return
        self._seen = seen
        found = doubts(served, self._settings, self._directory.limits, self._directory.keys, seen[2])
        for doubt in found:
            if doubt not in self._told:
                structlog.get_logger("deployment.access").warning("hardly_meant", problem=doubt)
        self._told = frozenset(found)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look again and again until the end."""
        async with going_on(self._watch, "doubts"):
            yield

    async def _watch(self) -> None:
        while True:
            with suppress(DatabaseUnavailable):
                await self.look()
            await asyncio.sleep(_EVERY_S)

"""Limits counted in Redis for several gateways: one round trip, one script that nobody comes between.

Redis away: each gateway counts its share by itself, from nothing, so that nobody waits. Over that minute the
gateways together may give up to twice the limit; over every later one, no more than it. The same for the
period of a budget.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from deployment.absence import Absence
from deployment.access.limits.memory import MemoryCounters
from deployment.access.limits.model import Charge, Kind, LimitFact, Return, Rule, Verdict
from deployment.clock import Clock
from deployment.errors import ConfigurationError

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.commands.core import AsyncScript

_TIMEOUT_S = 1.0
_CONNECTIONS = 32
_MOST_OWED = 10_000
_PREFIX = "ramsey:limit:"


class SharedCounters:
    """Counters of all gateways together. `gateways` is how many share the limits when Redis is away."""

    def __init__(self, redis: "Redis", gateways: int, lease_s: float, clock: Clock) -> None:
        self._redis = redis
        self._take = redis.register_script(_script("take.lua"))
        self._return = redis.register_script(_script("return.lua"))
        self._gateways = gateways
        self._lease_ms = int(lease_s * 1000)
        self._clock = clock
        self._alone = MemoryCounters(clock, gateways)
        self._away = Absence(clock.monotonic)
        self._places = asyncio.Semaphore(_CONNECTIONS)
        self._owed: deque[tuple[Sequence[Return], str]] = deque(maxlen=_MOST_OWED)
        """What could not be given back while Redis is away."""
        self._returning: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger("deployment.access.limits")

    @classmethod
    def at(cls, url: str, gateways: int, lease_s: float, clock: Clock) -> "SharedCounters":
        """Counters at `redis://…` or `unix://…`; connects when first used. `lease_s`: the longest request."""
        try:
            from redis.asyncio import Redis
        except ModuleNotFoundError:
            raise ConfigurationError(
                "limits.redis_url needs the package redis.", hint="Install it: pip install 'ramsey[redis]'."
            ) from None
        redis = Redis.from_url(url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S)
        return cls(redis, gateways, lease_s, clock)

    @property
    def problem(self) -> str | None:
        """Why limits are counted by this gateway alone now, for /health."""
        return "Redis does not answer: limits are counted by each gateway." if self._away else None

    async def take(self, charges: Sequence[Charge], lease: str) -> Verdict:
        """Take all charges or none, in one round trip."""
        if self._away.may_try():
            keys = [_PREFIX + charge.rule.counter for charge in charges]
            arguments: list[str | int] = [lease, self._lease_ms]
            for charge in charges:
                arguments += [charge.rule.amount, charge.amount, self._window_ms(charge.rule)]
            asking = asyncio.ensure_future(self._ask(self._take, keys, arguments))
            try:
                answer = await asyncio.shield(asking)
            except asyncio.CancelledError:  # its caller left, but Redis takes it all the same
                self._in_background(self._undo(charges, lease, asking))
                raise
            if answer is not None:
                return self._verdict(charges, answer)
        return self._alone.take_now(charges)

    def give_back(self, returns: Sequence[Return], lease: str) -> None:
        """Give back soon: the caller has its answer already."""
        self._in_background(self._give_back(tuple(returns), lease))

    async def close(self) -> None:
        """Finish what is being given back, and hang up."""
        await asyncio.gather(*self._returning)
        await self._redis.aclose()

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def _undo(self, charges: Sequence[Charge], lease: str, asking: "asyncio.Future[list[int] | None]") -> None:
        answer = await asking
        if answer is None:
            return
        verdict = self._verdict(charges, answer)
        if verdict.refused_by is None:
            taken = zip(charges, verdict.slices, strict=True)
            await self._give_back([Return(charge.rule, at, charge.amount) for charge, at in taken], lease)

    def _window_ms(self, rule: Rule) -> int:
        """As the script wants it: negative for a budget, whose end then is so far away."""
        if rule.ends_at is None:
            return int(rule.window_s * 1000)
        return -max(1, int((rule.ends_at - self._clock.now()).total_seconds() * 1000))

    async def _give_back(self, returns: Sequence[Return], lease: str) -> None:
        keys = [_PREFIX + item.rule.counter for item in returns]
        arguments: list[str | int] = [lease]
        for item in returns:
            arguments += [_form(item.rule), item.slice, item.amount]
        if self._away or await self._ask(self._return, keys, arguments) is None:
            self._owed.append((returns, lease))

    async def _ask(self, script: "AsyncScript", keys: list[str], arguments: list[str | int]) -> list[int] | None:
        """None where Redis does not answer. Who waits for a connection meanwhile does not try it again."""
        looks = bool(self._away)
        async with self._places:
            if self._away and not looks:
                return None
            return await self._ask_now(script, keys, arguments)

    async def _ask_now(self, script: "AsyncScript", keys: list[str], arguments: list[str | int]) -> list[int] | None:
        from redis.exceptions import RedisError

        try:
            answer: list[int] = await script(keys=keys, args=arguments)
        except (RedisError, OSError, TimeoutError) as error:
            if self._away.begin():
                self._log.error("limits_alone", problem=str(error), gateways=self._gateways)
            return None
        if self._away.end():
            self._log.info("limits_shared_again")
            owed, self._owed = self._owed, deque(maxlen=_MOST_OWED)
            for returns, lease in owed:
                self.give_back(returns, lease)
        return answer

    def _verdict(self, charges: Sequence[Charge], answer: list[int]) -> Verdict:
        refused, retry_ms, *rest = answer
        facts, slices = [], []
        for index, charge in enumerate(charges):
            remaining, reset_ms, at = rest[3 * index : 3 * index + 3]
            rule = charge.rule
            facts.append(LimitFact(rule.name, rule.amount, remaining, reset_ms / 1000, rule.window_s))
            slices.append(at)
        return Verdict(
            refused_by=refused - 1 if refused else None,
            retry_after_s=retry_ms / 1000,
            facts=tuple(facts),
            slices=tuple(slices),
            holder=self,
        )


def _form(rule: Rule) -> str:
    """How the script keeps a counter."""
    if rule.ends_at is not None:
        return "budget"
    return "places" if rule.kind is Kind.CONCURRENT else "window"


def _script(name: str) -> str:
    return (Path(__file__).parent / name).read_text()

"""Slots shared by several gateways, through Redis: each holds a part of every node's slots, changed in the background.

A request never waits for Redis: it is placed within the part that this gateway holds. One script in one round trip
tells what we use and want, and brings what we may use; it runs a few times a second, and at once when a request
has to wait. Redis gone: each gateway takes slots ÷ `replicas`.
"""

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import structlog

from deployment.background import forever
from deployment.engines.admission import Admission
from deployment.engines.node import Node
from deployment.errors import ConfigurationError
from deployment.settings import PoolSettings, redis_address

if TYPE_CHECKING:
    from redis.asyncio import Redis

_log = structlog.get_logger("engines")
_KEY = "ramsey:slots"
_GAP_S = 0.02  # between two syncs, however many requests wait
_TURN_MS = 1000  # how long a gateway holds a slot where there are fewer slots than gateways


class Part:
    """What this gateway holds of one node's slots. Pure."""

    __slots__ = ("grant", "slots", "wish")

    def __init__(self, slots: int, grant: int) -> None:
        self.slots = slots
        self.grant = grant
        self.wish = grant

    @property
    def share(self) -> int:
        """What may be used for new work."""
        return min(self.grant, self.wish)

    def keep(self, in_use: int) -> int:
        """What is not given up now: what may be used, and what still is."""
        return max(self.share, min(in_use, self.grant))


def part_alone(slots: int, replicas: int) -> int:
    """What a gateway takes when it cannot ask: its part, and one where there are fewer slots than gateways."""
    return max(1, slots // replicas)


class Leases:
    """Sets `Node.share` of every node."""

    def __init__(self, settings: PoolSettings, admission: Admission) -> None:
        self._settings = settings
        self._admission = admission
        self._gateway = uuid.uuid4().hex
        self._parts: dict[str, Part] = {}
        self._redis: Redis | None = None
        self._script: Callable[..., Awaitable[Any]] | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.shared: bool | None = None
        """Whether Redis divides the slots now; None where no Redis is set."""

    def start(self) -> None:
        """Begin, where a Redis is set. Raises ConfigurationError when the extra is not installed."""
        if self._settings.redis_url is None:
            return
        try:
            from redis.asyncio import Redis
        except ImportError:
            raise ConfigurationError(
                "pool.redis_url is set, but redis is not installed.", hint="pip install 'ramsey[redis]'"
            ) from None
        address = redis_address(self._settings.redis_url, "pool.redis_url")
        limit = min(1.0, self._settings.lease_seconds / 4)
        self._redis = Redis.from_url(address, socket_timeout=limit, socket_connect_timeout=limit)
        lua = resources.files("deployment.engines").joinpath("share.lua").read_text()
        self._script = self._redis.register_script(lua)
        self._admission.on_wait = self._wake.set
        self._task = asyncio.create_task(forever(self._run, "slots shared by Redis"), name="leases")

    async def close(self) -> None:
        """Give everything back, and end."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._redis:
            with contextlib.suppress(Exception):  # Redis may be gone; then the leases run out by themselves
                await self._sync(ttl_ms=0)
            await self._redis.aclose()

    def adopt(self, node: Node) -> None:
        """A node came: what may be used of it until Redis says."""
        if self._settings.redis_url is not None:
            node.share = part_alone(node.spec.slots, self._settings.replicas)
            self._parts[node.name] = Part(node.spec.slots, node.share)
            self._wake.set()

    def forget(self, node: Node) -> None:
        """A node left."""
        self._parts.pop(node.name, None)

    async def _run(self) -> None:
        from redis.exceptions import RedisError

        pause = self._settings.lease_seconds / 20
        while True:
            self._wake.clear()
            try:
                await self._sync(ttl_ms=int(self._settings.lease_seconds * 1000))
                self._say(True, None)
            except (RedisError, OSError, TimeoutError) as error:
                self._say(False, error)
                self._alone()
            self._admission.changed()
            await asyncio.sleep(_GAP_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    async def _sync(self, ttl_ms: int) -> None:
        assert self._script is not None  # noqa: S101 - set by start
        nodes = [node for node in self._admission.nodes.values() if node.name in self._parts]
        waiting = self._admission.waiting()
        arguments: list[str | int] = [self._gateway, ttl_ms, _TURN_MS]
        for node in nodes:
            slots, in_use = node.spec.slots, _in_use(node)
            keep = self._parts[node.name].keep(in_use) if self.shared else min(in_use, slots)
            node.share = min(node.share, keep) if not self.shared else node.share
            arguments += [node.name, slots, keep, min(slots, in_use + waiting)]
        reply: Sequence[int] = await self._script(keys=[_KEY], args=arguments)
        for index, node in enumerate(nodes):
            if (part := self._parts.get(node.name)) is not None:
                part.grant, part.wish = int(reply[2 * index]), int(reply[2 * index + 1])
                node.share = part.share
                if part.wish < part.grant and part.keep(_in_use(node)) < part.grant:
                    self._wake.set()  # others wait for what we can give back now

    def _alone(self) -> None:
        for node in self._admission.nodes.values():
            if part := self._parts.get(node.name):
                part.grant = part.wish = node.share = part_alone(part.slots, self._settings.replicas)

    def _say(self, shared: bool, error: Exception | None) -> None:
        if shared is self.shared:
            return
        self.shared = shared
        if shared:
            _log.info("slots are shared through Redis")
        else:
            _log.warning(
                "Redis is away: this gateway keeps to its own part of the slots",
                replicas=self._settings.replicas,
                reason=str(error),
            )


def _in_use(node: Node) -> int:
    """Slots hold for each release, so that the fullest one counts."""
    return max((on.in_flight for on in node.releases), default=0)

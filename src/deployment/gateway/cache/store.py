"""Where answers are kept: in this process, or in a Redis that several gateways share."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol, Self

import structlog

from deployment.absence import Absence
from deployment.errors import ConfigurationError

if TYPE_CHECKING:
    from redis.asyncio import Redis

_OVERHEAD_BYTES = 200  # of an entry, beside its value
_TIMEOUT_S = 0.25  # a cache that takes longer is no help
_log = structlog.get_logger("cache")


class Store(Protocol):
    """Keys of 32 bytes, values of any size."""

    @property
    def problem(self) -> str | None:
        """Why nothing is kept now, for /health."""
        ...

    async def get(self, key: bytes) -> bytes | None:
        """The value, unless it is not there or too old. Never raises: a store that is gone holds nothing."""
        ...

    async def put(self, key: bytes, value: bytes) -> None:
        """Keep it. Never raises."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class MemoryStore:
    """The least recently used go first once `max_bytes` are held; each lives `ttl_s` seconds."""

    def __init__(self, max_bytes: int, ttl_s: float, monotonic: Callable[[], float]) -> None:
        self._max_bytes, self._ttl_s, self._monotonic = max_bytes, ttl_s, monotonic
        self._entries: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        self.held_bytes = 0

    @property
    def problem(self) -> str | None:
        """Memory is always there."""
        return None

    async def get(self, key: bytes) -> bytes | None:
        """The value, and it was used now."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        expires, value = entry
        if expires <= self._monotonic():
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return value

    async def put(self, key: bytes, value: bytes) -> None:
        """Keep it, unless it alone is larger than the whole store."""
        if key in self._entries:
            self._drop(key)
        size = len(value) + _OVERHEAD_BYTES
        if size > self._max_bytes:
            return
        self._entries[key] = (self._monotonic() + self._ttl_s, value)
        self.held_bytes += size
        while self.held_bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    async def close(self) -> None:
        """There is nothing to let go of."""

    def _drop(self, key: bytes) -> None:
        _, value = self._entries.pop(key)
        self.held_bytes -= len(value) + _OVERHEAD_BYTES


class RedisStore:
    """Shared between gateways. A Redis that is slow or gone counts as empty: it must not fail an inference, nor may
    each wait for it: one a second tries it again.
    """

    def __init__(self, redis: "Redis", ttl_s: float, max_value_bytes: int, monotonic: Callable[[], float]) -> None:
        self._redis, self._ttl_ms, self._max_value_bytes = redis, int(ttl_s * 1000), max_value_bytes
        self._away = Absence(monotonic)

    @classmethod
    def from_url(cls, url: str, ttl_s: float, max_value_bytes: int, monotonic: Callable[[], float]) -> Self:
        """A store at `redis://…`; connects when it is first used. Raises ConfigurationError without the package."""
        try:
            from redis.asyncio import Redis
        except ImportError:
            raise ConfigurationError(
                "cache.redis_url needs the package redis.", hint="Install it: pip install 'ramsey[redis]'."
            ) from None
        redis = Redis.from_url(url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S)
        return cls(redis, ttl_s, max_value_bytes, monotonic)

    @property
    def problem(self) -> str | None:
        """Why nothing is kept now, for /health."""
        return "The cache's Redis does not answer: answers are made anew." if self._away else None

    async def get(self, key: bytes) -> bytes | None:
        """The value, or None."""
        value = await self._asked(lambda: self._redis.get(b"ramsey:cache:" + key))
        return value if isinstance(value, bytes) else None

    async def put(self, key: bytes, value: bytes) -> None:
        """Keep it for the time to live."""
        if len(value) <= self._max_value_bytes:
            await self._asked(lambda: self._redis.set(b"ramsey:cache:" + key, value, px=self._ttl_ms))

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def _asked(self, call: Callable[[], Awaitable[object]]) -> object:
        """What Redis says; None while it is away."""
        from redis.exceptions import RedisError

        if not self._away.may_try():
            return None
        try:
            answer = await call()
        except (RedisError, OSError, TimeoutError) as error:
            if self._away.begin():
                _log.warning("the cache's Redis does not answer; answers are made anew", reason=str(error))
            return None
        if self._away.end():
            _log.info("the cache's Redis answers again")
        return answer

"""Opens an answer: from the cache, together with others who ask the same, or from the pool."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
from prometheus_client import Counter

from deployment.engines import Call, EnginePool
from deployment.errors import RamseyError
from deployment.gateway.cache.keys import is_deterministic, key_of, split_question
from deployment.gateway.cache.semantic import SemanticIndex
from deployment.gateway.cache.shared import Shared
from deployment.gateway.cache.store import Store
from deployment.ollama_client import Event, Take, give
from deployment.ollama_wire import delta_of, end_of

MISS, HIT, COALESCED, SEMANTIC = "miss", "hit", "coalesced", "semantic"


@dataclass(slots=True)
class Opened:
    """An answer whose first event is there. `cache` says where from; None where caching was out of the question."""

    relay: Callable[[Take], Awaitable[None]]
    """Gives every event to who takes it, as it comes. Returns after Done, or raises what keeps it from coming."""
    close: Callable[[], Awaitable[None]]
    node: str | None
    attempts: int
    queue_ms: float
    cache: str | None


class Answers:
    """Deterministic calls are kept and coalesced; every other goes to the pool."""

    def __init__(self, pool: EnginePool, store: Store | None, semantic: SemanticIndex | None, lookups: Counter) -> None:
        self._pool, self._store, self._semantic, self._lookups = pool, store, semantic, lookups
        self._running: dict[bytes, Shared] = {}

    @property
    def problem(self) -> str | None:
        """Why no answer is kept now, for /health."""
        return None if self._store is None else self._store.problem

    async def close(self) -> None:
        """Let go of the store."""
        if self._store is not None:
            await self._store.close()

    async def open(self, call: Call, *, bypass: bool = False) -> Opened:
        """The answer of a call. Raises what the pool raises."""
        if self._store is None or bypass or not is_deterministic(call):
            answer = await self._pool.open(call)
            return Opened(answer.relay, answer.aclose, answer.node, answer.attempts, answer.queue_ms, None)
        key = key_of(call)
        if (running := self._running.get(key)) is not None:
            return await self._along(running, COALESCED)
        if (kept := await self._store.get(key)) is not None:
            return self._kept(kept, HIT)
        if (
            self._semantic is not None
            and (alike := await self._alike(self._semantic, self._store, call, key)) is not None
        ):
            return self._kept(alike, SEMANTIC)
        if (running := self._running.get(key)) is not None:  # another began while we looked
            return await self._along(running, COALESCED)
        store = self._store

        async def keep(events: list[Event]) -> None:
            await store.put(key, orjson.dumps([event.raw for event in events]))

        def ended() -> None:
            del self._running[key]

        self._running[key] = shared = Shared(self._pool, call, keep, ended)
        return await self._along(shared, MISS)

    async def _along(self, shared: Shared, label: str) -> Opened:
        self._lookups.labels(label).inc()
        shared.join()
        try:
            answer = await shared.opened()
        except BaseException:
            await shared.leave()
            raise
        return Opened(shared.relay, shared.leave, answer.node, answer.attempts, answer.queue_ms, label)

    def _kept(self, value: bytes, label: str) -> Opened:
        self._lookups.labels(label).inc()
        return Opened(partial(give, _events_of(orjson.loads(value))), _nothing, None, 0, 0.0, label)

    async def _alike(self, semantic: SemanticIndex, store: Store, call: Call, key: bytes) -> bytes | None:
        """The answer to a question that means the same; and this question is remembered for the next."""
        if (split := split_question(call)) is None:
            return None
        scope, question = split
        try:
            result: dict[str, Any] = await self._pool.request("/api/embed", call.release, {"input": question})
            vector = result["embeddings"][0]
        except (RamseyError, LookupError):
            return None  # no embeddings, no likeness: the question is answered as any other
        near = semantic.find(scope, vector)
        if near is not None and (kept := await store.get(near)) is not None:
            return kept
        semantic.add(scope, vector, key)
        return None


def _events_of(raws: list[dict[str, Any]]) -> list[Event]:
    events: list[Event] = []
    for raw in raws:
        if raw.get("done"):
            delta, done = end_of(raw)
            events += [done] if delta is None else [delta, done]
        else:
            events.append(delta_of(raw))
    return events


async def _nothing() -> None:
    pass

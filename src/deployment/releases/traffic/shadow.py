"""Mirrors requests to a release without traffic: after the caller has its answer, when slots are to spare."""

import asyncio
from dataclasses import dataclass, replace

from prometheus_client import CollectorRegistry, Counter

from deployment.clock import Clock
from deployment.engines import Call, EnginePool, Priority
from deployment.errors import RamseyError
from deployment.ollama_client import Delta, Done
from deployment.releases.traffic.choice import Choice
from deployment.releases.traffic.model import Split
from deployment.releases.traffic.outcome import ShadowSample
from deployment.releases.traffic.outcomes import LOADED_MS, Recorder

_TENANT = "shadow"
"""No caller's share of the queue is used."""
_LIMIT_S = 120.0
MOST_TEXT = 200_000
"""Characters of an answer that are compared."""


@dataclass(frozen=True, slots=True)
class MainAnswer:
    """The answer that the caller had."""

    text: str
    ttft_ms: float | None
    token_ms: float | None


class Shadows:
    """Never more than `most` at once; what comes then is not mirrored. Nothing of it reaches callers, their limits,
    the cache, or the release's metrics for callers."""

    def __init__(
        self, pool: EnginePool, recorder: Recorder, clock: Clock, registry: CollectorRegistry, most: int
    ) -> None:
        self._pool, self._recorder, self._clock, self._most = pool, recorder, clock, most
        self._tasks: set[asyncio.Task[None]] = set()
        self._results = Counter(
            "ramsey_shadow_answers",
            "Mirrored requests: equal, different, incomparable (sampled), failed, skipped (too many at once)",
            ["release", "result"],
            registry=registry,
        )

    def wanted(self, split: Split, choice: Choice, draw: float) -> bool:
        """Whether to mirror a request: drawn, and not answered by the shadowed release itself."""
        shadow = split.shadow
        if shadow is None or choice.release == shadow.release or draw >= shadow.share:
            return False
        if len(self._tasks) >= self._most:
            self._results.labels(shadow.release, "skipped").inc()
            return False
        return True

    def mirror(self, split: Split, call: Call, main: MainAnswer, *, comparable: bool) -> None:
        """Ask the shadowed release the same, in the background. `comparable`: both answers should be the same."""
        if split.shadow is None or len(self._tasks) >= self._most:
            return
        release = split.shadow.release
        asked = replace(
            call,
            release=release,
            body=call.body | {"stream": True},
            tenant=_TENANT,
            priority=Priority.BATCH,
            session=None,
            timeout_s=_LIMIT_S,
        )
        task = asyncio.create_task(self._ask(split.rollout, asked, main, comparable))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End what goes on."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, rollout: str | None, call: Call, main: MainAnswer, comparable: bool) -> None:
        at, equal, failed = self._clock.now().timestamp(), None, False
        ttft_ms = token_ms = None
        try:
            text, ttft_ms, token_ms = await self._answer(call)
        except RamseyError as error:
            failed = error.status != 429 and error.code != "engine_busy"
            result = "failed" if failed else "skipped"
        else:
            equal = text == main.text if comparable else None
            result = "incomparable" if equal is None else "equal" if equal else "different"
        self._results.labels(call.release, result).inc()
        if rollout is not None and result != "skipped":
            sample = ShadowSample(at, equal, failed, ttft_ms, main.ttft_ms, token_ms, main.token_ms)
            self._recorder.shadow(rollout, sample)

    async def _answer(self, call: Call) -> tuple[str, float | None, float | None]:
        answer = await self._pool.open(call)
        try:
            pieces: list[str] = []
            first_at = self._clock.monotonic()
            done: Done | None = None
            async for event in answer:
                if isinstance(event, Delta):
                    pieces.append(event.text)
                else:
                    done = event
            spent_ms = (self._clock.monotonic() - first_at) * 1e3
        finally:
            await answer.aclose()
        loaded = done is not None and done.load_ms > LOADED_MS
        tokens = done.completion_tokens if done is not None else 0
        ttft_ms = None if loaded else answer.first_event_ms - answer.queue_ms
        return "".join(pieces)[:MOST_TEXT], ttft_ms, spent_ms / (tokens - 1) if tokens > 1 else None

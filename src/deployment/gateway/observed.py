"""A request that somebody looks at: judged in a rollout, or mirrored to another release. Others cost nothing more."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from deployment.engines import Call
from deployment.gateway.cache import MISS
from deployment.ollama_client import Done, Event, Take
from deployment.releases import MainAnswer, Recorder, Shadows, Split, Watch, is_failure
from deployment.telemetry import RequestRecord

_LOADED_MS = 50.0
_MOST_TEXT = 200_000


class Observed:
    """Measures one generation, without the time that its caller takes to read."""

    def __init__(
        self,
        recorder: Recorder,
        watch: Watch | None,
        labels: Callable[[str | None], Mapping[str, str]],
        mirror: tuple[Shadows, Split, Call, bool] | None,
    ) -> None:
        """`labels` tells a node's; `mirror` where the shadowed release is to be asked too, and whether the texts
        can be compared."""
        self._recorder, self._watch, self._labels, self._mirror = recorder, watch, labels, mirror
        self._node_s = 0.0
        self._texts: list[str] | None = [] if mirror is not None else None
        self._done: Done | None = None
        self._waits_since: float | None = None
        self._now = asyncio.get_running_loop().time

    def over(self, take: Take, *, stream: bool) -> Take:
        """The same taker, measured. The first event has come."""
        if self._watch is not None and stream:
            self._recorder.answered(self._watch)

        def measured(event: Event) -> Awaitable[None] | None:
            if self._waits_since is not None:
                self._node_s += self._now() - self._waits_since
            if isinstance(event, Done):
                self._done = event
            elif self._texts is not None:
                self._texts.append(event.text)
            slow = take(event)
            self._waits_since = self._now()
            return None if slow is None else self._after(slow)

        return measured

    async def _after(self, slow: Awaitable[None]) -> None:
        await slow
        self._waits_since = self._now()

    def succeeded(self, record: RequestRecord) -> None:
        """The whole answer was given."""
        if record.cache not in (None, MISS) or self._done is None:
            self.dropped()  # no node worked for this caller
            return
        done = self._done
        ttft_ms = None
        if record.first_token_ms is not None and done.load_ms <= _LOADED_MS:
            ttft_ms = max(0.0, record.first_token_ms - (record.queue_ms or 0.0))
        tokens = done.completion_tokens
        spent_ms = self._node_s * 1e3 if record.stream else done.completion_ms
        token_ms = spent_ms / (tokens - 1) if tokens > 1 else None
        if self._watch is not None:
            node_class = self._labels(record.node).get("hardware", "")
            outcome = self._watch.outcome(failed=False, ttft_ms=ttft_ms, token_ms=token_ms, node_class=node_class)
            self._recorder.end(self._watch, outcome)
        if self._mirror is not None:
            shadows, split, call, comparable = self._mirror
            main = MainAnswer("".join(self._texts or ())[:_MOST_TEXT], ttft_ms, token_ms)
            shadows.mirror(split, call, main, comparable=comparable)

    def failed(self, error: BaseException, record: RequestRecord) -> None:
        """It ended with an error."""
        if self._watch is None:
            return
        if is_failure(error):
            node_class = self._labels(record.node).get("hardware", "")
            self._recorder.end(self._watch, self._watch.outcome(failed=True, node_class=node_class))
        else:
            self.dropped()

    def dropped(self) -> None:
        """It says nothing about the release."""
        if self._watch is not None:
            self._recorder.drop(self._watch)

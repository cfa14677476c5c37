"""An answer that has begun."""

from collections import deque
from typing import Self

from deployment.engines.attempt import Attempt
from deployment.errors import StreamIncomplete
from deployment.ollama_client import Event, Take, give


class Answer:
    """The events of one inference, the first included; ends after Done.

    Raises an EngineError where the node fails from here on: a byte may have gone to the caller, so that no other
    node is tried. Call `aclose()` in every case.
    """

    __slots__ = ("_attempt", "_first", "attempts", "first_event_ms", "node", "queue_ms", "release")

    def __init__(
        self,
        attempt: Attempt,
        first: list[Event],
        *,
        release: str,
        attempts: int,
        queue_ms: float,
        first_event_ms: float,
    ) -> None:
        self._attempt = attempt
        self._first = deque(first)
        self.node = attempt.node.name
        self.release = release
        self.attempts = attempts
        """Nodes tried, the one that answers included."""
        self.queue_ms = queue_ms
        """Wait for slots, of all attempts together."""
        self.first_event_ms = first_event_ms
        """From `open` to the first event, the queue included."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._first:
            return self._first.popleft()
        event = await self._attempt.next()
        if event is None:
            if not self._attempt.done:
                raise StreamIncomplete("The answer was closed.")
            raise StopAsyncIteration
        return event

    async def relay(self, take: Take) -> None:
        """Give every event to `take`, as it comes. Returns after Done; raises as the iteration does."""
        first, self._first = self._first, deque()
        await give(first, take)
        if not self._attempt.done:
            await self._attempt.relay(take)

    async def aclose(self) -> None:
        """Give the answer up, or tidy up after its end; may be called again."""
        await self._attempt.aclose()

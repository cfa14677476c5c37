"""One inference on a node, from the request to the end of its answer."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Self

from deployment.errors import EngineError
from deployment.ollama_connection.answer import Answer, read_all, unavailable
from deployment.ollama_connection.node_socket import NodeSocket
from deployment.ollama_connection.sockets import Sockets
from deployment.ollama_connection.timeouts import Timeouts, Watch
from deployment.ollama_wire import Event, Take, error_of, give

_MAX_ERROR_BYTES = 64 * 1024

Exchange = Callable[[str, Mapping[str, Any], float, Watch], Coroutine[Any, Any, tuple[NodeSocket, int]]]
"""Sends a body to a path, with the seconds for a connection and the watch: the socket, and the answer's status."""


class Events:
    """Deltas, then exactly one Done. Nothing is sent before the first is asked for.

    Raises an EngineError instead of what cannot come. Read it to its end, or call `aclose()`, which cuts the
    connection. No generator: that would cost each token, and each request its registration with the loop.
    """

    __slots__ = (
        "_answer",
        "_body",
        "_exchange",
        "_limits",
        "_over",
        "_path",
        "_ready",
        "_socket",
        "_sockets",
        "_watch",
    )

    def __init__(
        self, sockets: Sockets, exchange: Exchange, path: str, body: Mapping[str, Any], limits: Timeouts
    ) -> None:
        self._sockets, self._exchange, self._path, self._body, self._limits = sockets, exchange, path, body, limits
        self._ready: list[Event] = []  # what came with the last event, the next one last
        self._watch: Watch | None = None
        self._socket: NodeSocket | None = None
        self._answer: Answer | None = None
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._ready:
            return self._ready.pop()
        if self._over:
            raise StopAsyncIteration
        try:
            answer = self._answer or await self._begin()
            if answer.ended:
                await answer.drain()
                raise StopAsyncIteration
            events = await answer.read()
        except BaseException as error:
            raise self._failed(error) from None
        if len(events) > 1:
            self._ready = events[:0:-1]
        return events[0]

    async def relay(self, take: Take) -> None:
        """Give every event to come to `take`, from the loop itself: no task wakes for a token. Returns after Done, or
        raises as the iteration does; what `take` raises, too."""
        try:
            answer = self._answer or await self._begin()
            ready, self._ready = self._ready[::-1], []
            await give(ready, take)
            await answer.relay(take)
        except BaseException as error:
            raise self._failed(error) from None

    async def aclose(self) -> None:
        """Give the rest up."""
        self._end()

    def __del__(self) -> None:
        if not self._over and self._socket is not None and not self._sockets.loop.is_closed():
            self._end()

    async def _begin(self) -> Answer:
        limits = self._limits
        streamed = self._body.get("stream", True) is not False
        watch = self._watch = Watch(self._sockets.loop, limits.first_token if streamed else limits.total, limits)
        connect_s = min(limits.connect, limits.total)
        self._socket, status = await self._exchange(self._path, self._body, connect_s, watch)
        if status != 200:
            raise error_of(status, await read_all(self._socket, _MAX_ERROR_BYTES))
        answer = self._answer = Answer(self._socket, watch, streamed)
        return answer

    def _failed(self, error: BaseException) -> BaseException:
        """It is over; what to raise for that."""
        self._end()
        return self._sockets.noted(self._meaning(error)) if isinstance(error, OSError | EngineError) else error

    def _meaning(self, error: OSError | EngineError) -> EngineError:
        if self._watch is not None and self._watch.expired:
            return self._watch.late()
        if isinstance(error, EngineError):
            return error
        return unavailable(error) if self._answer is None else self._answer.meaning(error)

    def _end(self) -> None:
        if self._over:
            return
        self._over = True
        self._ready = []
        if self._watch is not None:
            self._watch.stop()
        if self._socket is not None:
            self._sockets.done(self._socket)
            self._socket = None

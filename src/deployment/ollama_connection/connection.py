"""The connection to a node: one pool of sockets, requests that leave on it. No meaning of its own."""

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import orjson

from deployment.errors import EngineError, EngineTimeout, InvalidRequest
from deployment.ollama_connection.answer import read_all, unavailable, unreachable
from deployment.ollama_connection.events import Events
from deployment.ollama_connection.node_socket import NodeSocket
from deployment.ollama_connection.sockets import Sockets
from deployment.ollama_connection.timeouts import Timeouts, Watch

_JSON = "application/json"
_BYTES = "application/octet-stream"
_MAX_UNARY_BYTES = 256 * 1024 * 1024
_PIECE_BYTES = 256 * 1024


class Connection:
    """The sockets to the node at `host`. Opens them at the first request."""

    def __init__(self, host: str, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._sockets = Sockets(host)

    async def close(self) -> None:
        """Close our sockets, those in use too. The next request opens new ones."""
        await self._sockets.close()

    def events(self, path: str, body: Mapping[str, Any], limits: Timeouts | None = None) -> Events:
        """POST `body` once the first event is asked for."""
        return Events(self._sockets, self._post, path, body, limits or self._timeouts)

    async def call(
        self,
        method: str,
        path: str,
        data: bytes | BinaryIO | None = None,
        within: float | None = None,
        silence: float | None = None,
    ) -> tuple[int, bytes]:
        """Any other request: the status and the whole body of its answer, `within` seconds or `total`.

        With `silence` it may take any time, but not so many seconds in which no byte of a file or the answer moves.
        """
        within = self._timeouts.total if within is None else within
        limit = within if silence is None else silence
        socket: NodeSocket | None = None
        try:
            async with asyncio.timeout(limit) as timer:

                def moved() -> None:
                    if silence is not None:
                        timer.reschedule(asyncio.get_running_loop().time() + silence)

                connect_s = min(self._timeouts.connect, limit)
                socket, status = await self._exchange(method, path, data, connect_s, None, moved)
                return status, await read_all(socket, _MAX_UNARY_BYTES, moved)
        except TimeoutError:
            late = f"did not answer within {limit:g} s" if silence is None else f"stood still for {limit:.3g} s"
            raise self.noted(EngineTimeout(f"The engine {late}.")) from None
        except OSError as error:
            raise self.noted(unavailable(error)) from None
        except EngineError as error:
            raise self.noted(error) from None
        finally:
            if socket is not None:
                self._sockets.done(socket)

    def noted(self, error: EngineError) -> EngineError:
        """See Sockets.noted."""
        return self._sockets.noted(error)

    async def _post(self, path: str, body: Mapping[str, Any], connect_s: float, watch: Watch) -> tuple[NodeSocket, int]:
        return await self._exchange("POST", path, encode(body), connect_s, watch)

    async def _exchange(
        self,
        method: str,
        path: str,
        data: bytes | BinaryIO | None,
        connect_s: float,
        watch: Watch | None,
        moved: Callable[[], None] | None = None,
    ) -> tuple[NodeSocket, int]:
        """Send a request and wait for the head of its answer. The socket is the caller's to give to `done`.

        A node may close an idle connection just as we reuse it: then once more, on a new one.
        """
        new = False
        while True:
            try:
                socket = await self._sockets.take(connect_s, new=new)
            except OSError as error:
                raise unreachable(error) from None
            try:
                if watch is not None:
                    watch.start(socket)
                return socket, await self._send(socket, method, path, data, moved)
            except BaseException as error:
                self._sockets.done(socket)
                stale = isinstance(error, ConnectionError) and socket.uses > 1 and not socket.answered
                expired = watch is not None and watch.expired
                if new or expired or not stale or not isinstance(data, bytes | None):
                    raise
                new = True

    async def _send(
        self,
        socket: NodeSocket,
        method: str,
        path: str,
        data: bytes | BinaryIO | None,
        moved: Callable[[], None] | None,
    ) -> int:
        if data is None:
            socket.send(self._sockets.request(method, path, None, ""), bodiless=method == "HEAD")
        elif isinstance(data, bytes):
            socket.send(self._sockets.request(method, path, len(data), _JSON) + data)
        else:
            size = await asyncio.to_thread(os.stat, data.fileno())
            socket.send(self._sockets.request(method, path, size.st_size, _BYTES))
            while (piece := await asyncio.to_thread(data.read, _PIECE_BYTES)) and await socket.write(piece):
                if moved is not None:
                    moved()
        return await socket.head()


def encode(body: Mapping[str, Any]) -> bytes:
    """The bytes of a request's body."""
    try:
        return orjson.dumps(body)
    except TypeError as error:
        raise InvalidRequest(f"The request cannot be written as JSON: {error}.") from None

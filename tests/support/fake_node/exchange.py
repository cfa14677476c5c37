"""One request and its answer; knows when the caller has gone."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

import orjson

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
T = TypeVar("T")


class Gone(Exception):
    """The caller has closed the connection, or we have."""


class Refused(Exception):
    """An answer other than 200, in Ollama's shape."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status
        self.error = error


class Exchange:
    """A request with the means to answer it, right or wrong."""

    __slots__ = ("_gone", "_receive", "_send", "method", "path", "scope", "streaming", "transport")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.transport: asyncio.Transport | None = scope.get("transport")
        self.streaming = False
        self._receive = receive
        self._send = send
        self._gone: asyncio.Task[None] | None = None

    async def body(self) -> bytes:
        message = await self._receive()
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            parts = [body]
            while message.get("more_body"):
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                parts.append(message.get("body", b""))
            body = b"".join(parts)
        return body

    async def json(self, value: Any, status: int = 200) -> None:
        await self.raw(orjson.dumps(value), status, b"application/json; charset=utf-8")

    async def text(self, text: str, status: int = 200) -> None:
        await self.raw(text.encode(), status, b"text/plain")

    async def raw(self, body: bytes, status: int = 200, kind: bytes = b"application/json") -> None:
        headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
        if 300 <= status < 400:
            headers.append((b"location", b"/api/tags"))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else body})

    async def start_stream(self) -> None:
        headers = [(b"content-type", b"application/x-ndjson")]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        self.streaming = True

    async def write(self, data: bytes) -> None:
        if self.gone():
            raise Gone
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end_stream(self, data: bytes = b"") -> None:
        await self._send({"type": "http.response.body", "body": data})

    def gone(self) -> bool:
        if self.transport is not None and self.transport.is_closing():
            return True
        return self._gone is not None and self._gone.done()

    async def pause(self, seconds: float | None) -> None:
        """Wait (None: for ever), once the body is read; raises Gone as soon as the caller is."""
        await asyncio.wait({self._watch()}, timeout=seconds)
        if self.gone():
            raise Gone

    async def race(self, work: Awaitable[T]) -> T:
        """Do `work` unless the caller leaves first: then it is cancelled."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, self._watch()}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        if task.cancelled():
            raise Gone
        return task.result()

    def reset(self) -> None:
        """A TCP reset, at once."""
        if self.transport is not None:
            sock: socket.socket = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        raise Gone

    def garbage(self, data: bytes) -> None:
        """Bytes past HTTP, then the end; none: just the end."""
        if self.transport is not None:
            self.transport.write(data)
            self.transport.close()
        raise Gone

    def close(self) -> None:
        if self._gone is not None:
            self._gone.cancel()

    def _watch(self) -> asyncio.Task[None]:
        if self._gone is None:
            self._gone = asyncio.ensure_future(self._until_gone())
        return self._gone

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

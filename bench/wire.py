"""HTTP/1.1 by hand on asyncio protocols: what measures must cost less than what is measured."""

import asyncio
from collections.abc import Callable
from typing import Any

import httptools


class ServerConnection(asyncio.Protocol):
    """One caller. `handle(connection, path, body)` answers with `reply`, or `begin`, `chunk`… and `end`."""

    def __init__(self, handle: Callable[["ServerConnection", str, bytes], None]) -> None:
        self._handle = handle
        self._parser = httptools.HttpRequestParser(self)
        self._parts: list[bytes] = []
        self._path = b""
        self.transport: Any = None
        self.on_lost: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self.on_lost is not None:
            self.on_lost()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        body, path = b"".join(self._parts), self._path.decode()
        self._parts.clear()
        self._path = b""
        self._handle(self, path, body)

    def reply(self, body: bytes, status: str = "200 OK", kind: str = "application/json") -> None:
        """A whole answer."""
        self.transport.write(whole(body, status, kind))

    def begin(self, kind: str) -> None:
        """The head of a stream."""
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
        self.transport.write(head.encode())

    def chunk(self, data: bytes) -> None:
        """One piece of a stream."""
        self.transport.write(chunked(data))

    def end(self, data: bytes) -> None:
        """The last piece of a stream."""
        self.transport.write(chunked(data) + b"0\r\n\r\n")


def whole(body: bytes, status: str = "200 OK", kind: str = "application/json") -> bytes:
    """The bytes of an answer."""
    return f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def chunked(data: bytes) -> bytes:
    """The bytes of a chunk."""
    return b"%x\r\n%s\r\n" % (len(data), data)


class ClientConnection(asyncio.Protocol):
    """One connection of the load generator; one request at a time."""

    def __init__(self, on_body: Callable[["ClientConnection", bytes], None], done: Callable[..., None]) -> None:
        self._on_body, self._done = on_body, done
        self._parser: Any = None
        self.transport: Any = None
        self.exchange: Any = None
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def send(self, request: bytes, exchange: Any) -> None:
        """Send a request; `done(connection, status)` follows, with status 0 for a lost connection."""
        self.exchange = exchange
        self._parser = httptools.HttpResponseParser(self)
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self.exchange is None:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        if self.exchange is not None:
            self._done(self, 0)

    def on_body(self, body: bytes) -> None:
        self._on_body(self, body)

    def on_message_complete(self) -> None:
        status, keep = self._parser.get_status_code(), self._parser.should_keep_alive()
        if not keep:
            self.closed = True
            self.transport.close()
        self._done(self, status)

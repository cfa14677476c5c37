"""One request on a connection of our own listener, and its answer: by ASGI's messages, or past them."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.types import Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from deployment.gateway.listener.headers import Header, lines_of


class Cycle(RequestResponseCycle):
    """Uvicorn's, which is also the request's DirectConnection: no dictionaries, and one write for head and body."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.common = b""
        self.outermost: Send | None = None
        self._head = b""
        self._on_gone: Callable[[], None] | None = None

    def whole_body(self) -> bytes | None:
        """See DirectConnection."""
        if self.more_body or self.disconnected:
            return None
        body, self.body = bytes(self.body), bytearray()
        return body

    @property
    def begun(self) -> bool:
        """See DirectConnection."""
        return self.response_started

    def when_gone(self, call: Callable[[], None] | None) -> None:
        """See CallerConnection."""
        self._on_gone = call
        if call is not None and self.disconnected:
            call()

    def lost(self) -> None:
        """The caller has left."""
        self.disconnected = True
        self.message_event.set()
        call, self._on_gone = self._on_gone, None
        if call is not None:
            call()

    def begin(self, status: int, headers: Sequence[Header], length: int | None) -> Awaitable[None] | None:
        """See CallerConnection. The head waits for the first piece, and goes out with it."""
        block = lines_of(headers)
        if block.count(b"\n") != len(headers) or block.count(b"\r") != len(headers):
            raise ValueError("a header of the answer has a line end in it")
        if length is not None:
            body = b"content-length: %d\r\n" % length
        elif self.scope["http_version"] == "1.0":
            body = b""  # it ends with the connection
        else:
            body, self.chunked_encoding = b"transfer-encoding: chunked\r\n", True
        if not self.keep_alive:
            body += b"connection: close\r\n"
        self.response_started = True
        self.waiting_for_100_continue = False
        parts = (STATUS_LINE[status], lines_of(self.default_headers), block, self.common, body, b"\r\n")
        self._head = b"".join(parts)
        return None

    def write(self, piece: bytes, *, more: bool) -> Awaitable[None] | None:
        """See CallerConnection."""
        if self.disconnected:
            return None
        if self.chunked_encoding:
            piece = b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""
            if not more:
                piece += b"0\r\n\r\n"
        if self._head:
            piece, self._head = self._head + piece, b""
        self.transport.write(piece)
        if not more:
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()
        elif self.flow.write_paused:
            return self.flow.drain()
        return None

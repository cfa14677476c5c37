"""The open connections to one node."""

import asyncio
import base64
import ipaddress
import ssl
from functools import lru_cache
from socket import EAI_AGAIN, SOCK_STREAM
from urllib.parse import quote

from yarl import URL

from deployment.errors import EngineError, EngineTimeout
from deployment.ollama_connection.node_socket import NodeSocket

_KEEP_IDLE_S = 30.0
_LOOK_UP_S = 1.0
"""How long DNS may take where we know the addresses that a name had."""


class Sockets:
    """Connections to the node at `host`: opened when there is none that is idle, kept for a while after use."""

    def __init__(self, host: str) -> None:
        url = URL(host)
        self._host, self._port, self._tls = url.host or "", url.port or 80, url.scheme == "https"
        self._base = url.raw_path.rstrip("/")
        self._shown = str(url.with_user(None)).rstrip("/")
        lines = ["User-Agent: ramsey", "Accept: application/json", f"Host: {url.host_port_subcomponent}"]
        if url.user or url.password:
            pair = f"{url.user or ''}:{url.password or ''}".encode()
            lines.append("Authorization: Basic " + base64.b64encode(pair).decode())
        self._headers = "\r\n".join(lines)
        self._context: ssl.SSLContext | None = None
        self._known: list[str] = []
        self._looking: asyncio.Future[list[str]] | None = None
        self._idle: list[NodeSocket] = []
        self._used: set[NodeSocket] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop of these sockets. Kept: asking for the one that runs is a system call each time."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def noted(self, error: EngineError) -> EngineError:
        """The error with the node's address, without a password, in a note: callers of the gateway read the message
        and need not learn our addresses; logs show the note."""
        error.add_note(f"engine: {self._shown}")
        return error

    def request(self, method: str, path: str, length: int | None, content_type: str) -> bytes:
        """The head of a request with a body of `length` bytes; None for no body."""
        body = "" if length is None else f"Content-Type: {content_type}\r\nContent-Length: {length}\r\n"
        return f"{method} {self._base}{_quoted(path)} HTTP/1.1\r\n{self._headers}\r\n{body}\r\n".encode()

    async def take(self, connect_s: float, *, new: bool = False) -> NodeSocket:
        """A connection for one request: the one that was idle for the shortest time, or a `new` one.

        Raises EngineTimeout when connecting takes too long, OSError when it fails. Give it to `done` in every case.
        """
        loop = self.loop
        if not new:
            oldest = loop.time() - _KEEP_IDLE_S
            while self._idle:
                socket = self._idle.pop()
                if socket.reusable and socket.idle_since > oldest:
                    self._used.add(socket)
                    return socket
                socket.abort()
        try:
            async with asyncio.timeout(connect_s):
                if self._tls and self._context is None:
                    self._context = await asyncio.to_thread(ssl.create_default_context)
                socket = await self._connected(loop)
        except TimeoutError:
            raise EngineTimeout(f"No connection to the engine within {connect_s:g} s.") from None
        self._used.add(socket)
        return socket

    def done(self, socket: NodeSocket) -> None:
        """The request on it is over: keep it for the next one where its answer was read to the end, else cut it."""
        self._used.discard(socket)
        if not (socket.reusable and socket.at_end):
            socket.abort()
            return
        loop = self.loop
        socket.idle_since = loop.time()
        self._idle.append(socket)
        if self._sweep is None:
            self._sweep = loop.call_later(_KEEP_IDLE_S, self._close_idle)

    async def close(self) -> None:
        """Cut all, those in use too."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for socket in (*self._idle, *self._used):
            socket.abort()
        self._idle.clear()
        self._used.clear()
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        self._loop = None
        await asyncio.sleep(0)  # sockets close in the loop's next turn

    async def _connected(self, loop: asyncio.AbstractEventLoop) -> NodeSocket:
        """A new connection, to the first address that takes one."""
        failure: OSError | None = None
        for address in await self._addresses(loop):
            try:
                _, socket = await loop.create_connection(
                    lambda: NodeSocket(loop),
                    address,
                    self._port,
                    ssl=self._context,
                    server_hostname=self._host if self._tls else None,
                )
                return socket
            except OSError as error:
                failure = error
        raise failure or OSError(0, "its name leads to a link-local address")

    async def _addresses(self, loop: asyncio.AbstractEventLoop) -> list[str]:
        """Where the node is. A name may lead anywhere but to a link-local address: there clouds give out the machine's
        credentials, and who adds nodes may own a name. While DNS does not answer, where it was."""
        if is_address(self._host):
            return [self._host]
        if self._looking is None or self._looking.done():  # one at a time: each holds a thread until DNS answers
            self._looking = asyncio.ensure_future(self._look_up(loop))
            self._looking.add_done_callback(lambda looked: looked.cancelled() or looked.exception())
        try:
            async with asyncio.timeout(_LOOK_UP_S if self._known else None):
                self._known = await asyncio.shield(self._looking)
        except OSError as error:  # a time-out is one
            passing = isinstance(error, TimeoutError) or error.errno == EAI_AGAIN
            if not (passing and self._known):
                raise
        return self._known

    async def _look_up(self, loop: asyncio.AbstractEventLoop) -> list[str]:
        found = await loop.getaddrinfo(self._host, self._port, type=SOCK_STREAM)
        addresses = dict.fromkeys(str(info[4][0]) for info in found)
        return [address for address in addresses if not is_link_local(address)]

    def _close_idle(self) -> None:
        loop = self.loop
        oldest = loop.time() - _KEEP_IDLE_S
        kept = []
        for socket in self._idle:
            if socket.reusable and socket.idle_since > oldest:
                kept.append(socket)
            else:
                socket.abort()
        self._idle = kept
        self._sweep = loop.call_later(_KEEP_IDLE_S, self._close_idle) if kept else None


@lru_cache(maxsize=256)
def _quoted(path: str) -> str:
    return quote(path, safe="/:")


def is_address(host: str) -> bool:
    """Whether this is an address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_link_local(host: str) -> bool:
    """Whether this is an address that only means something on one's own link."""
    if not is_address(host):
        return False
    address = ipaddress.ip_address(host)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_link_local

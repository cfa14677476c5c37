"""Whatever bytes come to the port: an answer of HTTP, never of a fault of the server's own, or the connection's end."""

import asyncio
import contextlib
import re
import socket

import httpx
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.support.fake_node import FakeNode
from tests.support.serving import serving

_STARTS = [
    b"GET /health/live HTTP/1.1",
    b"POST /generate HTTP/1.1",
    b"POST /admin/keys HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"CONNECT localhost:1 HTTP/1.1",
    b"GET http://localhost/health HTTP/1.1",
    b"GET /health/live HTTP/1.0",
    b"GET /health/live HTTP/9.9",
    b"PRI * HTTP/2.0",
    b"get / http/1.1",
    b"GET /%00%ff/../x?\xff HTTP/1.1",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
]
_LINES = [
    b"Host: localhost",
    b"Host: \xff\xfe",
    b"Content-Length: 5",
    b"Content-Length: -1",
    b"Content-Length: 99999999999999999999999999",
    b"Content-Length: 5, 5",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: \x0bchunked",
    b"Expect: 100-continue",
    b"Connection: upgrade",
    b"Upgrade: websocket",
    b"Upgrade: h2c",
    b"Sec-WebSocket-Key: x",
    b"Content-Encoding: gzip",
    b"Accept-Encoding: \xff;q=9",
    b"Authorization: Bearer \xff",
    b"Authorization: Basic Og==",
    b"X-API-Key: rk_x",
    b"Cookie: ;;=; ramsey-session=\xff; =",
    b'Forwarded: for="[";by',
    b"X-Request-Id: a\tb",
    b"X-Session-Id: \xe9",
    b" folded: x",
    b": empty",
    b"no colon",
    b"a: " + b"x" * 70_000,
    b"\x00: \x00",
]
_head = st.tuples(
    st.sampled_from(_STARTS)
    | st.sampled_from([start + b"\r\nHost: localhost" for start in _STARTS[:4]])
    | st.binary(max_size=30),
    st.lists(st.sampled_from(_LINES) | st.binary(max_size=30), max_size=6),
    st.sampled_from([b"\r\n", b"\n", b"\r"]),
    st.sampled_from(
        [b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"fffffffff\r\n", b"-1\r\n", b"GET / HTTP/1.1\r\n\r\n"]
    ),
).map(lambda parts: parts[2].join([parts[0], *parts[1], b"", b""]) + parts[3])


def exchange(port: int, request: bytes, cut: int) -> bytes:
    """Send it in two pieces, say that this is all, and take what comes until the connection ends."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as wire, contextlib.suppress(ConnectionError):
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire.sendall(request[:cut])
        wire.sendall(request[cut:])
        wire.shutdown(socket.SHUT_WR)
        while piece := wire.recv(65536):
            answer += piece
    return answer


def fuzz(port: int) -> None:
    statuses = set()

    @settings(
        max_examples=400,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(_head, st.integers(0, 200))
    def run(request: bytes, cut: int) -> None:
        answer = exchange(port, request, cut)
        found = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
        assert found or not answer, answer[:200]
        if found:
            statuses.add(int(found[1]))
            assert int(found[1]) < 500, (request, answer[:500])

    run()
    assert {200, 400} <= statuses


async def test_no_bytes_break_the_port() -> None:
    keys = [{"name": "k", "sha256": "0" * 64}]
    async with FakeNode() as node, serving(node.url, profile="production", access={"keys": keys}) as (url, services):
        await asyncio.to_thread(fuzz, int(url.rpartition(":")[2]))
        assert not len(services.gateway.exchanges)
        async with httpx.AsyncClient(base_url=url) as http:
            assert (await http.get("/health/live")).status_code == 200

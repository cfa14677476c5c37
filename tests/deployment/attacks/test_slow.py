"""Callers who take their time, or all connections."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from tests.support.attacked import Target, attacked, read_answers, status_of, until

HEAD_S, BODY_S, CONNECTIONS = 2, 2, 60


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A gateway with little patience."""
    settings = {
        "RAMSEY_SERVER__SLOW_HEAD_SECONDS": str(HEAD_S),
        "RAMSEY_SERVER__SLOW_CLIENT_SECONDS": str(BODY_S),
        "RAMSEY_SERVER__MAX_CONNECTIONS": str(CONNECTIONS),
    }
    with attacked(tmp_path_factory.mktemp("slow"), **settings) as running:
        yield running


def drip(target: Target, begin: bytes, drop: bytes) -> bytes:
    """Bytes one by one, until the other side has enough; what it said."""
    with socket.create_connection(("127.0.0.1", target.port), 60) as wire:
        wire.sendall(begin)
        wire.settimeout(0.1)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                wire.sendall(drop)
                if said := wire.recv(65536):
                    wire.settimeout(60)
                    return said + read_answers(wire)
                return b""
            except TimeoutError:
                continue
            except ConnectionError:
                return b""
    raise AssertionError("the gateway waits for ever")


def test_a_head_that_comes_byte_by_byte(slow: Target) -> None:
    answer = drip(slow, b"GET /health HTTP/1.1\r\nHost: x\r\nX-A: ", b"a")
    assert status_of(answer) == 408
    assert b"request_timeout" in answer


def test_a_body_that_comes_byte_by_byte(slow: Target) -> None:
    begin = b'POST /generate HTTP/1.1\r\nHost: x\r\nX-API-Key: %s\r\nContent-Length: 100000\r\n\r\n{"prompt": "' % (
        slow.user.encode()
    )
    answer = drip(slow, begin, b"a")
    assert status_of(answer) == 408
    chunked = begin.replace(b"Content-Length: 100000", b"Transfer-Encoding: chunked").partition(b"{")[0]
    assert status_of(drip(slow, chunked, b"1\r\na\r\n")) == 408


@pytest.mark.parametrize("sent", [b"", b"G", b"\r\n\r\n\r\n", b"GET /health HTTP/1.1\r\n"])
def test_a_connection_that_asks_nothing(slow: Target, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", slow.port), 60) as wire:
        wire.sendall(sent)
        said = read_answers(wire)  # until the gateway closes it
    assert status_of(said) in {0, 408}


def test_a_connection_that_goes_on_after_its_answer(slow: Target) -> None:
    """Kept alive, it has the same time for the head of its next request."""
    with socket.create_connection(("127.0.0.1", slow.port), 60) as wire:
        wire.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\nGET /health/live HTTP/1.1\r\nHost: ")
        said = read_answers(wire)
    assert said.count(b"HTTP/1.1 200") == 1
    assert said.count(b"HTTP/1.1 408") == 1


def test_a_reader_who_takes_nothing_of_its_stream(slow: Target) -> None:
    tokens = slow.node.inference.tokens
    slow.node.inference.tokens = 400_000
    try:
        with socket.create_connection(("127.0.0.1", slow.port), 60) as wire:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            body = json.dumps({"model": "ramsey-model", "prompt": "Hello slow reader"}).encode()
            wire.sendall(slow.signed("POST", "/api/generate", body=body))
            until(lambda: slow.node.stats()["in_flight"] == {"ramsey-model:v1.1": 1} or slow.node.stats()["cancelled"])
            until(lambda: not slow.node.stats()["in_flight"])
            assert slow.node.stats()["cancelled"] == 1
    finally:
        slow.node.inference.tokens = tokens


def test_all_connections_taken(slow: Target) -> None:
    """The next is told so at once; the others are closed in their time, and then everybody is served again."""
    with ExitStack() as held:
        wires = [held.enter_context(socket.create_connection(("127.0.0.1", slow.port), 60)) for _ in range(CONNECTIONS)]
        for wire in wires:
            wire.sendall(b"GET /health HTTP/1.1\r\n")
        until(lambda: _status(slow) == 503)
    until(lambda: _status(slow) == 200)


def test_connections_far_beyond_the_limit_are_cut(slow: Target) -> None:
    with ExitStack() as held:
        for _ in range(4 * CONNECTIONS):
            held.enter_context(socket.create_connection(("127.0.0.1", slow.port), 60))
        until(lambda: _status(slow) in {0, 503})
    until(lambda: _status(slow) == 200)


def _status(target: Target) -> int:
    try:
        return httpx.get(f"{target.url}/health/live", timeout=30).status_code
    except httpx.TransportError:
        return 0

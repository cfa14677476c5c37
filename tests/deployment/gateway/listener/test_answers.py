"""How answers are written on the wire."""

import asyncio
import json
import re

import pytest
from tests.deployment.gateway.conftest import Gate

from deployment.gateway.listener.headers import NO_PAGE

ASK = {"prompt": "Hello", "stream": True}


async def exchange(gate: Gate, *requests: bytes, until: bytes) -> bytes:
    """Send requests in one piece, and read until `until` was seen or the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(gate.url.rpartition(":")[2]))
    writer.write(b"".join(requests))
    got = b""
    async with asyncio.timeout(20):
        while until not in got and (more := await reader.read(65536)):
            got += more
    writer.close()
    return got


def request(ask: dict[str, object], version: str = "1.1") -> bytes:
    body = json.dumps(ask).encode()
    head = f"POST /generate HTTP/{version}\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def test_to_http_1_0_a_stream_is_no_chunks_and_ends_with_its_connection(gate: Gate) -> None:
    got = await exchange(gate, request(ASK, "1.0"), until=b"\0")
    head, _, body = got.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert b"transfer-encoding" not in head
    assert body.startswith(b"data: ")
    assert body.endswith(b"\n\n")


async def test_requests_sent_at_once_are_answered_in_their_order(gate: Gate) -> None:
    asks = [request({"prompt": "Hello", "stream": stream, "max_tokens": 3}) for stream in (True, False)]
    got = await exchange(gate, *asks, b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n", until=b'"not_found"')
    assert re.findall(rb"HTTP/1.1 (\d+)", got) == [b"200", b"200", b"404"]
    assert got.index(b"text/event-stream") < got.index(b"application/json")


@pytest.mark.parametrize("stream", [True, False])
async def test_an_inference_carries_what_every_answer_carries(gate: Gate, stream: bool) -> None:
    inference = await gate.http.post("/generate", json=ASK | {"stream": stream}, headers={"x-request-id": "mine"})
    other = await gate.http.get("/health", headers={"x-request-id": "mine"})
    for name in ("x-request-id", "x-content-type-options", "referrer-policy", "content-security-policy"):
        assert inference.headers.get_list(name) == other.headers.get_list(name)
    assert inference.headers["content-security-policy"] == NO_PAGE.decode()
    assert inference.headers["date"]

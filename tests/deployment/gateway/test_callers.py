"""Callers who leave, read slowly or never finish: their work stops, and nobody else notices."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from tests.deployment.gateway.conftest import Gate
from tests.deployment.gateway.test_faults import nothing_left
from tests.support.fake_node import FakeNode
from tests.support.serving import serving


@asynccontextmanager
async def gate_before(node: FakeNode, *, own_listener: object = True, **settings: object) -> AsyncIterator[Gate]:
    async with (
        serving(node.url, own_listener=own_listener, **settings) as (url, services),
        httpx.AsyncClient(base_url=url, timeout=30, limits=httpx.Limits(max_connections=None)) as http,
    ):
        yield Gate(http, node, services)


async def leave(gate: Gate, path: str, body: dict[str, object], after: bytes | None) -> None:
    """Ask, read until `after` was seen (None: nothing), and close the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(gate.url.rpartition(":")[2]))
    data = json.dumps(body).encode()
    writer.write(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(data)))
    writer.write(data)
    await writer.drain()
    if after is None:
        while not len(gate.services.gateway.exchanges):
            await asyncio.sleep(0.005)
    else:
        await asyncio.wait_for(reader.readuntil(after), 10)
    writer.close()


async def idle(node: FakeNode) -> None:
    """Until the node works for nobody."""
    for _ in range(200):
        if not node.stats()["in_flight"]:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"the node still works: {node.stats()}")


@pytest.mark.parametrize("own_listener", [True, False])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_caller_who_leaves_before_the_first_token_stops_the_work(stream: bool, own_listener: bool) -> None:
    async with (
        FakeNode(token_delay_s=0.05, tokens=2000) as node,
        gate_before(node, own_listener=own_listener) as gate,
    ):
        await leave(gate, "/generate", {"prompt": "Hello", "stream": stream}, after=None)
        await idle(node)
        await nothing_left(gate)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"prompt": "Hello", "stream": True}),
        ("/api/chat", {"model": "ramsey-model", "messages": [{"role": "user", "content": "Hello"}]}),
        ("/v1/completions", {"model": "ramsey-model", "prompt": "Hello", "stream": True}),
    ],
)
async def test_a_caller_who_leaves_in_mid_stream_stops_the_work(path: str, body: dict[str, object]) -> None:
    async with FakeNode(token_delay_s=0.01, tokens=5000) as node, gate_before(node) as gate:
        await leave(gate, path, body, after="naïve".encode())
        await idle(node)
        await nothing_left(gate)
        assert (await gate.http.get("/health")).status_code == 200, "the node is not blamed"


def open_sockets() -> list[str]:
    """This process's; the database opens and closes its files as it likes."""
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.append(str(descriptor.readlink()))
    return [link for link in links if link.startswith("socket:")]


async def test_a_thousand_cancelled_streams_leave_no_slot_and_no_descriptor() -> None:
    async with FakeNode(token_delay_s=0.01, tokens=5000, slots=64) as node:
        settings = {"engine": {"num_parallel": 64}}
        async with gate_before(node, **settings) as gate:
            await leave(gate, "/generate", {"prompt": "Hello", "stream": True}, after=b"data: ")
            await idle(node)
            before = open_sockets()

            async def some(count: int) -> None:
                for _ in range(count):
                    await leave(gate, "/generate", {"prompt": "Hello", "stream": True}, after=b"data: ")

            await asyncio.gather(*(some(25) for _ in range(40)))
            await idle(node)
            await nothing_left(gate)
            async with asyncio.timeout(30):
                while len(open_sockets()) > len(before):
                    await asyncio.sleep(0.05)
            assert sum(node.requests[path] for path in ("/api/generate", "/api/chat")) >= 1000


async def test_two_hundred_streams_at_once_are_each_complete() -> None:
    async with FakeNode(slots=16, token_delay_s=0.001) as node:
        async with gate_before(node, engine={"num_parallel": 16}) as gate:

            async def one(number: int) -> str:
                prompt = {"prompt": f"Hello {number}", "stream": True}
                return (await gate.http.post("/generate", json=prompt)).text

            texts = await asyncio.gather(*(one(number) for number in range(200)))
        assert all(text.count('"done":true') == 1 for text in texts)
        said = {"".join(json.loads(b[6:])["response"] for b in text.strip().split("\n\n")) for text in texts}
        assert len(said) == 1
        assert max(node.stats()["peak_in_flight"].values()) <= 17, "slots and one ahead"


async def test_a_caller_who_reads_nothing_is_given_up() -> None:
    async with FakeNode(tokens=400_000) as node, gate_before(node, server={"slow_client_seconds": 0.4}) as gate:
        with socket.create_connection(("127.0.0.1", int(gate.url.rpartition(":")[2]))) as caller:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            body = b'{"model": "ramsey-model", "prompt": "Hello"}'  # no limit of tokens: more than buffers hold
            head = b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
            await asyncio.to_thread(caller.sendall, head + body)
            async with asyncio.timeout(20):
                while not _tokens_sent(node):
                    await asyncio.sleep(0.01)
            await idle(node)
            assert node.stats()["cancelled"] == 1
            await nothing_left(gate)


def _tokens_sent(node: FakeNode) -> bool:
    """Whether an answer of the node is on its way."""
    return any("Hello" in str(body) for _, body in node.bodies) and bool(node.stats()["in_flight"])


async def test_a_body_that_never_ends_is_given_up() -> None:
    async with FakeNode() as node, gate_before(node, server={"slow_client_seconds": 0.3}) as gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(gate.url.rpartition(":")[2]))
        writer.write(b'POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"prompt": ')
        answer = await asyncio.wait_for(reader.read(), 10)
        assert b"408" in answer.split(b"\r\n")[0]
        assert b"request_timeout" in answer
        writer.close()


async def test_a_body_cut_short_is_nobody_s_error() -> None:
    async with FakeNode() as node, gate_before(node) as gate:
        _, writer = await asyncio.open_connection("127.0.0.1", int(gate.url.rpartition(":")[2]))
        writer.write(b'POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"prompt": ')
        await writer.drain()
        writer.close()
        for _ in range(100):
            metrics = (await gate.http.get("/metrics")).text
            if 'ramsey_requests_total{endpoint="/generate",status="499"} 1.0' in metrics:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("the request was not counted as cancelled")

"""The connection to a node against servers that write single bytes as told, on both event loops."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from tests.support.certificates import write_certificate

from deployment.errors import EngineProtocolError, EngineTimeout, EngineUnavailable
from deployment.ollama_connection import Connection, Timeouts, sockets

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture(params=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> asyncio.Runner:
    return asyncio.Runner(loop_factory=uvloop.new_event_loop if request.param == "uvloop" else None)


async def request_of(reader: asyncio.StreamReader) -> bytes:
    """One request, head and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
    return head + (await reader.readexactly(int(lengths[0])) if lengths else b"")


def answering(*answers: bytes, close: bool = False, seen: list[bytes] | None = None) -> Serve:
    """A node that gives one answer after the other, on whichever connections come, then ends them."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while left:
                request = await request_of(reader)
                if seen is not None:
                    seen.append(request)
                writer.write(left.pop(0))
                if close:
                    break
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    return serve


def ask(
    runner: asyncio.Runner,
    serve: Serve,
    calls: Callable[[Connection], Awaitable[list[tuple[int, bytes]]]],
    tls: ssl.SSLContext | None = None,
) -> list[tuple[int, bytes]]:
    """What `calls` get from a server that runs meanwhile; its connections are gone at the end."""

    async def run() -> list[tuple[int, bytes]]:
        opened = 0

        async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal opened
            opened += 1
            await serve(reader, writer)

        server = await asyncio.start_server(counted, "localhost", 0, family=2, ssl=tls)
        port = server.sockets[0].getsockname()[1]
        connection = Connection(
            f"{'https' if tls else 'http'}://user:geheim@localhost:{port}/base", Timeouts(total=10.0)
        )
        try:
            return [*await calls(connection), (opened, b"connections")]
        finally:
            await connection.close()
            server.close()
            async with asyncio.timeout(30):
                await server.wait_closed()

    with runner:
        return runner.run(run())


async def twice(connection: Connection) -> list[tuple[int, bytes]]:
    return [await connection.call("GET", "/api/version"), await connection.call("GET", "/api/version")]


async def once(connection: Connection) -> list[tuple[int, bytes]]:
    return [await connection.call("POST", "/api/show", b"{}")]


def test_a_kept_connection_serves_again(runner: asyncio.Runner) -> None:
    seen: list[bytes] = []
    got = ask(runner, answering(OK, OK, seen=seen), twice)
    assert got == [(200, b"{}"), (200, b"{}"), (1, b"connections")]
    assert seen[0].startswith(b"GET /base/api/version HTTP/1.1\r\n")
    assert b"Authorization: Basic dXNlcjpnZWhlaW0=\r\n" in seen[0]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", (200, b"{}")),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK, (200, b"{}")),
        (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", (404, b"")),
        (b"HTTP/1.1 204 None\r\n\r\n", (204, b"")),
    ],
    ids=["chunks", "interim", "empty", "none"],
)
def test_the_ways_in_which_an_answer_ends(runner: asyncio.Runner, answer: bytes, expected: tuple[int, bytes]) -> None:
    got = ask(runner, answering(answer, OK), twice)
    assert got == [expected, (200, b"{}"), (1, b"connections")]


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 200 OK\r\n\r\n{}", b"HTTP/1.0 200 OK\r\n\r\n{}", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}"],
)
def test_a_body_without_a_length_ends_with_its_connection(runner: asyncio.Runner, answer: bytes) -> None:
    got = ask(runner, answering(answer, answer, close=True), twice)
    assert got == [(200, b"{}"), (200, b"{}"), (2, b"connections")]


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}", EngineUnavailable, "closed the connection"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", EngineUnavailable, "closed"),
        (b"SSH-2.0-OpenSSH\r\n", EngineProtocolError, "not HTTP"),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", EngineProtocolError, "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000, EngineProtocolError, "head"),
        (b"", EngineUnavailable, "without an answer"),
    ],
    ids=["short", "no last chunk", "another protocol", "upgrade", "head too large", "nothing"],
)
def test_answers_that_are_none(runner: asyncio.Runner, answer: bytes, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text) as told:
        ask(runner, answering(answer, close=True), once)
    assert "geheim" not in str(told.value)
    assert "geheim" not in str(told.value.__notes__)


def test_bytes_that_nobody_asked_for_end_the_connection(runner: asyncio.Runner) -> None:
    """A second answer must not be taken for that of the next request."""
    lie = b'HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"x"'
    got = ask(runner, answering(OK + lie, OK), twice)
    assert got == [(200, b"{}"), (200, b"{}"), (2, b"connections")]


def test_an_answer_to_head_has_no_body(runner: asyncio.Runner) -> None:
    async def calls(connection: Connection) -> list[tuple[int, bytes]]:
        return [await connection.call("HEAD", "/api/blobs/sha256:0"), await connection.call("GET", "/api/version")]

    told = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"
    assert ask(runner, answering(told, OK), calls)[:2] == [(200, b""), (200, b"{}")]


def test_a_file_goes_out_whole_or_until_it_is_refused(runner: asyncio.Runner, tmp_path: Path) -> None:
    file = tmp_path / "blob"
    file.write_bytes(b"x" * 20_000_000)
    seen: list[bytes] = []

    async def upload(connection: Connection) -> list[tuple[int, bytes]]:
        with file.open("rb") as source:
            return [await connection.call("POST", "/api/blobs/sha256:0", source)]

    assert ask(runner, answering(OK, seen=seen), upload)[0] == (200, b"{}")
    assert len(seen[0]) > 20_000_000

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 507 Full\r\nContent-Length: 4\r\n\r\nfull")
        await writer.drain()
        while await reader.read(65536):
            pass
        writer.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as another:
        assert ask(another, refuse, upload)[0] == (507, b"full")


def test_a_node_that_takes_nothing_is_given_up(runner: asyncio.Runner, tmp_path: Path) -> None:
    file = tmp_path / "blob"
    file.write_bytes(b"x" * 20_000_000)

    async def stuck(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await writer.wait_closed()

    async def upload(connection: Connection) -> list[tuple[int, bytes]]:
        with file.open("rb") as source:
            return [await connection.call("POST", "/api/blobs/sha256:0", source, within=0.5)]

    with pytest.raises(EngineTimeout, match=r"within 0\.5 s"):
        ask(runner, stuck, upload)


def test_a_large_answer_is_read_as_fast_as_it_is_taken(runner: asyncio.Runner) -> None:
    body = b"x" * 30_000_000
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    status, got = ask(runner, answering(answer), once)[0]
    assert status == 200
    assert got == body


def test_a_node_behind_tls_is_verified(runner: asyncio.Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = write_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert ask(runner, answering(OK, OK), twice, tls=context)[0] == (200, b"{}")
    monkeypatch.delenv("SSL_CERT_FILE")
    with (
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as another,
        pytest.raises(EngineUnavailable, match="cannot be reached: self-signed certificate"),
    ):
        ask(another, answering(OK), once, tls=context)


class Resolver(asyncio.SelectorEventLoop):
    """A loop whose DNS answers as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: str | socket.gaierror | None = None
        self.asked = 0

    async def getaddrinfo(self, host: Any, port: Any, **kinds: int) -> list[Any]:
        self.asked += 1
        if self.fault == "silent":
            await asyncio.Event().wait()
        if isinstance(self.fault, socket.gaierror):
            raise self.fault
        return await super().getaddrinfo("127.0.0.1", port, **kinds)


@pytest.mark.parametrize(
    ("fault", "served"),
    [
        ("silent", True),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), True),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), False),
    ],
)
def test_while_dns_does_not_answer_a_node_is_where_it_was(
    monkeypatch: pytest.MonkeyPatch, fault: str | socket.gaierror, served: bool
) -> None:
    monkeypatch.setattr(sockets, "_LOOK_UP_S", 0.1)
    loop = Resolver()

    async def run() -> list[int | EngineUnavailable]:
        server = await asyncio.start_server(answering(*[OK] * 6, close=True), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        connection = Connection(f"http://node.test:{port}", Timeouts(connect=5.0, total=10.0))
        assert (await connection.call("GET", "/"))[0] == 200
        loop.fault, loop.asked = fault, 0

        async def call() -> int | EngineUnavailable:
            try:
                return (await connection.call("GET", "/"))[0]
            except EngineUnavailable as error:
                return error

        answers = await asyncio.gather(*(call() for _ in range(5)))
        await connection.close()
        server.close()
        return answers

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        answers = runner.run(run())
    assert loop.asked == 1
    assert [answer == 200 for answer in answers] == [served] * 5

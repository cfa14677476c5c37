"""Requests that two readers could understand differently, as bytes on the wire; and what reached the node."""

import socket

import pytest
from tests.support.attacked import Target, read_answers, status_of

BODY = b'{"prompt":"Hello smuggled"}'
SIZE = b"%x" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked"
CHUNKS = SIZE + b"\r\n" + BODY + b"\r\n0\r\n\r\n"


def request(target: Target, *lines: bytes, body: bytes = CHUNKS, version: bytes = b"1.1") -> bytes:
    head = [b"POST /generate HTTP/" + version, b"Host: llm.example", b"X-API-Key: " + target.user.encode(), *lines]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def refused(target: Target, data: bytes, status: int = 400) -> None:
    """One answer, the refusal; the connection ends; nothing reached the node."""
    before = len(target.received())
    answer = target.send(data)
    assert status_of(answer) == status, answer[:300]
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer
    assert b'"code":' in answer
    assert len(target.received()) == before


def test_a_good_request_is_answered(target: Target) -> None:
    for lines, body in (([b"Content-Length: %d" % len(BODY)], BODY), ([CHUNKED], CHUNKS)):
        answer = target.send(request(target, b"Connection: close", *lines, body=body))
        assert status_of(answer) == 200, answer


@pytest.mark.parametrize(
    "lengths",
    [
        [b"Content-Length: 27", b"Content-Length: 27"],
        [b"Content-Length: 27", b"Content-Length: 5"],
        [b"Content-Length: 27, 27"],
        [b"Content-Length: +27"],
        [b"Content-Length: -1"],
        [b"Content-Length: 0x1b"],
        [b"Content-Length: 2 7"],
        [b"Content-Length: 18446744073709551643"],
        [b"Content-Length: "],
    ],
)
def test_a_length_twice_or_of_two_meanings(target: Target, lengths: list[bytes]) -> None:
    refused(target, request(target, *lengths, body=BODY))


@pytest.mark.parametrize("first", ["length", "coding"])
def test_a_length_beside_chunks(target: Target, first: str) -> None:
    lines = [b"Content-Length: 4", CHUNKED]
    refused(target, request(target, *(lines if first == "length" else lines[::-1])))


@pytest.mark.parametrize(
    "coding",
    [
        [b"Transfer-Encoding: xchunked"],
        [b"Transfer-Encoding: chunked, identity"],
        [b"Transfer-Encoding: gzip, chunked"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: \x0bchunked"],
        [b"Transfer-Encoding: identity"],
        [b'Transfer-Encoding: "chunked"'],
    ],
)
def test_a_coding_that_is_not_just_chunked(target: Target, coding: list[bytes]) -> None:
    refused(target, request(target, *coding))


def test_chunks_in_http_1_0(target: Target) -> None:
    refused(target, request(target, CHUNKED, version=b"1.0"))


@pytest.mark.parametrize(
    "chunks",
    [
        b"0x" + CHUNKS,
        b"-" + CHUNKS,
        b"+" + CHUNKS,
        b"1000000000000001b\r\n" + CHUNKS,
        CHUNKS.replace(b"\r\n", b"\n"),
        SIZE + b" \r\n" + BODY + b"\r\n0\r\n\r\n",
        SIZE + b";a\nb\r\n" + BODY + b"\r\n0\r\n\r\n",
        SIZE + b"\r\n" + BODY + b"XX0\r\n\r\n",
        b"zz\r\n" + BODY,
    ],
)
def test_sizes_of_chunks_of_two_meanings(target: Target, chunks: bytes) -> None:
    refused(target, request(target, CHUNKED, body=chunks))


@pytest.mark.parametrize(
    "line",
    [
        b"X-A: b\r\n folded",
        b"X-A: b\r\n\tfolded",
        b"X-A: b\nX-B: c",
        b"X-A: b\rX-B: c",
        b"X A: b",
        b"X-A : b",
        b"Transfer-Encoding : chunked",
        b": b",
        b" X-A: b",
        b"X-A: b\0c",
        b"X\0A: b",
        b"X-A: \x1b[2J",
        b"X-A\xff: b",
        b"no colon",
    ],
)
def test_headers_that_are_folded_spaced_or_hold_controls(target: Target, line: bytes) -> None:
    refused(target, request(target, line, b"Content-Length: %d" % len(BODY), body=BODY))


def test_lines_that_end_in_a_bare_line_feed(target: Target) -> None:
    refused(target, request(target, b"Content-Length: %d" % len(BODY), body=BODY).replace(b"\r\n", b"\n"))


@pytest.mark.parametrize("hosts", [[], [b"Host: a", b"Host: b"], [b"Host: a", b"host: a"]])
def test_no_host_or_two(target: Target, hosts: list[bytes]) -> None:
    refused(target, b"\r\n".join([b"GET /health HTTP/1.1", *hosts, b"", b""]))


@pytest.mark.parametrize(
    "line", [b"GET /health", b"GET /health HTTP/0.9", b"GET /health HTTP/3.0", b"GET /health HTP/1.1"]
)
def test_another_version_of_http(target: Target, line: bytes) -> None:
    refused(target, line + b"\r\n\r\n")


def test_the_preface_of_http_2(target: Target) -> None:
    refused(target, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"TLS/1.0", b"x"])
def test_a_request_hidden_behind_an_upgrade(target: Target, protocol: bytes) -> None:
    hidden = b"GET /admin/keys HTTP/1.1\r\nHost: x\r\nX-API-Key: " + target.admin.encode() + b"\r\n\r\n"
    upgrade = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: " + protocol + b"\r\n\r\n"
    answer = target.send(upgrade + hidden)
    assert status_of(answer) == 200
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer


def test_a_tunnel_asked_for(target: Target) -> None:
    refused(target, b"CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: x\r\n\r\n")


def test_a_body_where_none_belongs_is_no_second_request(target: Target) -> None:
    hidden = b"GET /admin/keys HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = target.send(target.signed("GET", "/models", body=hidden))
    assert status_of(answer) == 200
    assert answer.count(b"HTTP/1.1 ") == 1


def test_headers_after_the_body_count_for_nothing(target: Target) -> None:
    for name in (b"X-Ramsey-Release-Pin: nobody", b"Host: evil", b"X-Forwarded-For: 127.0.0.1", b"X-API-Key: rk_other"):
        body = SIZE + b"\r\n" + BODY + b"\r\n0\r\n" + name + b"\r\n\r\n"
        answer = target.send(request(target, CHUNKED, b"Connection: close", body=body))
        assert status_of(answer) == 200, (name, answer)


def test_what_is_wrong_behind_a_good_request_does_not_take_its_answer(target: Target) -> None:
    answer = target.send(request(target, b"Content-Length: %d" % len(BODY), body=BODY) + b"rubbish\r\n\r\n")
    assert status_of(answer) == 200
    assert b"finish_reason" in answer
    assert answer.count(b"HTTP/1.1 ") == 1


def test_nothing_of_a_callers_headers_reaches_the_node(target: Target) -> None:
    sly = {
        "host": "evil.example",
        "origin": "https://evil.example",
        "connection": "close, x-api-key, x-secret",
        "x-secret": "s3cret",
        "x-forwarded-for": "6.6.6.6",
        "forwarded": "for=6.6.6.6",
        "te": "trailers",
        "proxy-authorization": "Basic AAAA",
        "cookie": "a=b",
        "user-agent": "sly",
        "transfer-encoding-x": "chunked",
    }
    answer = target.ask("POST", "/api/chat", target.user, headers=sly, json=_chat("Hello headers"))
    assert answer.status_code == 200
    seen = next(each for each in reversed(target.node.seen) if each.path == "/api/chat")
    sent = b"\n".join(name + b": " + value for name, value in seen.headers).lower()
    for word in (
        b"evil",
        b"s3cret",
        b"6.6.6.6",
        b"sly",
        b"cookie",
        b"origin",
        b"x-api-key",
        target.user.lower().encode(),
    ):
        assert word not in sent
    assert dict(seen.headers)[b"host"].startswith(b"127.0.0.1")
    lengths = [value for name, value in seen.headers if name in {b"content-length", b"transfer-encoding"}]
    assert len(lengths) == 1


def test_pipelined_requests_are_answered_in_their_order(target: Target) -> None:
    one = b"GET /nowhere/%d HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", target.port), 60) as wire:
        wire.sendall(b"".join(one % number for number in range(500)))
        wire.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answers = read_answers(wire)
    assert answers.count(b"HTTP/1.1 404") == 500
    assert answers.count(b"HTTP/1.1 200") == 1
    assert answers.rindex(b"HTTP/1.1 200") > answers.rindex(b"HTTP/1.1 404")


def _chat(text: str) -> dict[str, object]:
    return {"model": "ramsey-model", "stream": False, "messages": [{"role": "user", "content": text}]}

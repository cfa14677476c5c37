"""Bodies and heads that are too large, packed, nested, or no text."""

import gzip
import zlib
from collections.abc import Iterator

import psutil
import pytest
from tests.support.attacked import Target, status_of

MIB = 1024 * 1024
PATHS = ["/generate", "/api/chat", "/v1/chat/completions", "/admin/keys"]


@pytest.fixture(autouse=True)
def _memory_stays(target: Target) -> Iterator[None]:
    """No attack of these makes the gateway hold much more than it did."""
    process = psutil.Process(target.process.pid)
    before = process.memory_info().rss
    yield
    assert process.is_running()
    assert process.memory_info().rss < before + 100 * MIB
    assert target.ask("GET", "/health/live").status_code == 200


@pytest.mark.parametrize(
    "coding", ["gzip", "x-gzip", "deflate", "br", "zstd", "GZIP", "gzip, gzip", "identity, gzip", "x"]
)
@pytest.mark.parametrize("path", PATHS)
def test_a_packed_body(target: Target, path: str, coding: str) -> None:
    """A bomb is not unpacked: no coding is taken, known or not."""
    bomb = gzip.compress(b'{"prompt": "' + b" " * 50 * MIB + b'"}')
    answer = target.ask("POST", path, target.admin, content=bomb, headers={"content-encoding": coding})
    assert answer.status_code == 400
    assert "Content-Encoding" in answer.text


def test_a_bomb_within_a_bomb(target: Target) -> None:
    inner = zlib.compress(b"\0" * 200 * MIB)
    for content, headers in ((gzip.compress(inner), {"content-encoding": "deflate, gzip"}), (inner, {})):
        answer = target.ask("POST", "/generate", target.user, content=content, headers=headers)
        assert answer.status_code == 400


@pytest.mark.parametrize("path", PATHS)
def test_a_body_that_says_it_is_too_large(target: Target, path: str) -> None:
    head = target.signed("POST", path, b"Content-Length: 99999999999").replace(
        target.user.encode(), target.admin.encode()
    )
    answer = target.send(head)
    assert status_of(answer) == 413
    assert b"payload_too_large" in answer


@pytest.mark.parametrize("path", PATHS)
def test_a_chunked_body_beyond_the_limit(target: Target, path: str) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(200):
            yield b"x" * 65536

    assert target.ask("POST", path, target.admin, content=endless()).status_code == 413


def test_a_body_that_stays_below_the_limit_of_bytes_and_not_of_characters(target: Target) -> None:
    for path, body in (
        ("/generate", {"prompt": "x" * MIB}),
        ("/chat", {"messages": [{"role": "user", "content": "x" * 150_000}] * 2}),
        ("/v1/completions", {"model": "ramsey-model", "prompt": "x" * MIB}),
    ):
        answer = target.ask("POST", path, target.user, json=body)
        assert answer.status_code == 413
        assert "200000" in answer.text


def test_a_hundred_thousand_headers(target: Target) -> None:
    flood = [b"X-%d: y" % number for number in range(100_000)]
    answer = target.send(target.signed("GET", "/models", *flood))
    assert status_of(answer) == 431
    assert b"At most 100 headers" in answer


@pytest.mark.parametrize("size", [70_000, 5 * MIB])
def test_a_long_header(target: Target, size: int) -> None:
    assert status_of(target.send(target.signed("GET", "/models", b"X-A: " + b"a" * size))) == 431
    assert status_of(target.send(target.signed("GET", "/models", b"a" * size + b": x"))) == 431


def test_a_flood_of_headers_behind_the_body(target: Target) -> None:
    trailers = b"".join(b"X-%d: y\r\n" % number for number in range(100_000))
    chunked = target.signed("POST", "/generate", b"Transfer-Encoding: chunked")
    answer = target.send(chunked + b'e\r\n{"prompt":"x"}\r\n0\r\n' + trailers + b"\r\n")
    assert status_of(answer) == 431


@pytest.mark.parametrize("size", [9_000, 5 * MIB])
def test_a_long_url(target: Target, size: int) -> None:
    for path in ("/" + "a" * size, "/models?" + "a" * size):
        assert status_of(target.send(target.signed("GET", path))) == 414


@pytest.mark.parametrize("opener", ["[", '{"a":', '[{"a":['])
@pytest.mark.parametrize("path", PATHS)
def test_json_nested_deeply(target: Target, path: str, opener: str) -> None:
    for body in (opener * 100_000, '{"name": "x", "prompt": "x", "tools": ' + opener * 50_000):
        assert target.ask("POST", path, target.admin, content=body, headers=JSON).status_code == 400


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    "value",
    ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5_000, "1" + "0" * 400, "0x10", "01"],
)
def test_numbers_that_are_none_or_huge(target: Target, value: str) -> None:
    for path, body in (
        ("/generate", '{"prompt": "x", "max_tokens": %s}'),
        ("/generate", '{"prompt": "x", "seed": %s}'),
        ("/api/chat", '{"model": "ramsey-model", "messages": [], "own": [{"a": %s}], "options": {"num_predict": %s}}'),
        ("/v1/completions", '{"model": "ramsey-model", "prompt": "x", "max_tokens": %s, "n": %s}'),
        ("/admin/keys", '{"name": "x", "expires_at": %s, "tenant": %s}'),
    ):
        answer = target.ask("POST", path, target.admin, content=body.replace("%s", value), headers=JSON)
        assert answer.status_code == 400, (path, answer.text)
    for path, body in (
        ("/admin/limits/model/m", '{"requests_per_minute": %s}'),
        ("/admin/traffic/ramsey-model", '{"version": %s, "shares": [{"release": "ramsey-model:v1.1", "weight": %s}]}'),
    ):
        answer = target.ask("PUT", path, target.admin, content=body.replace("%s", value), headers=JSON)
        assert answer.status_code == 400, (path, answer.text)


@pytest.mark.parametrize(
    "text",
    [
        rb'"\ud800"',
        rb'"\udfff\ud800"',
        b'"\xff\xfe"',
        b'"\xc0\xaf"',
        b'"\xed\xa0\x80"',
        b'"\xf4\x90\x80\x80"',
        b'"a\nb"',
    ],
)
def test_texts_that_are_none(target: Target, text: bytes) -> None:
    """Lone surrogates, bytes that are no UTF-8, overlong forms, raw line ends."""
    for path, body in (
        ("/generate", b'{"prompt": %s}'),
        ("/chat", b'{"messages": [{"role": "user", "content": %s}]}'),
        ("/api/generate", b'{"model": "ramsey-model", "prompt": "x", "own": [%s]}'),
        ("/v1/embeddings", b'{"model": "ramsey-model", "input": [%s]}'),
        ("/admin/keys", b'{"name": %s}'),
        ("/feedback", b'{"request_id": "x", "score": 1, "comment": %s}'),
    ):
        answer = target.ask("POST", path, target.admin, content=body % text, headers=JSON)
        assert answer.status_code == 400, (path, answer.text)


def test_a_body_that_is_no_json(target: Target) -> None:
    for content in (b"", b"null", b"[]", b'"x"', b"\0" * 1000, b"<xml/>", b"prompt=x", bytes(range(256)) * 100):
        for path in PATHS:
            assert target.ask("POST", path, target.admin, content=content, headers=JSON).status_code == 400


def test_a_form_or_plain_text_makes_no_key(target: Target) -> None:
    """What a page of another site can send without asking: none of it is read as JSON by the admin API."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        made = target.ask(
            "POST", "/admin/keys", target.admin, content=b'{"name":"csrf"}', headers={"content-type": kind}
        )
        assert made.status_code == 400


def test_a_schema_that_would_hold_a_node_for_minutes(target: Target) -> None:
    reached = len(target.received())
    wide = {"enum": [str(number) for number in range(20_000)]}
    deep: dict[str, object] = {"type": "string"}
    for _ in range(200):
        deep = {"type": "object", "properties": {"a": deep}}
    for schema in (wide, deep):
        answer = target.ask("POST", "/generate", target.user, json={"prompt": "x", "format": schema})
        assert answer.status_code == 400, answer.text
    assert len(target.received()) == reached

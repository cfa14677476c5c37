"""What callers get wrong: each answered in the dialect, with code, message and request id."""

import asyncio
from typing import Any

import pytest
from tests.deployment.gateway.conftest import Gate

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASK: dict[str, dict[str, Any]] = {
    "/generate": {"prompt": "x"},
    "/chat": {"messages": [{"role": "user", "content": "x"}]},
    "/embeddings": {"input": "x"},
    "/api/generate": {"model": "ramsey-model", "prompt": "x", "stream": False},
    "/api/chat": {"model": "ramsey-model", "messages": [{"role": "user", "content": "x"}], "stream": False},
    "/api/embed": {"model": "ramsey-model", "input": "x"},
    "/api/embeddings": {"model": "ramsey-model", "prompt": "x"},
    "/api/show": {"model": "ramsey-model"},
    "/v1/chat/completions": {"model": "ramsey-model", "messages": [{"role": "user", "content": "x"}]},
    "/v1/completions": {"model": "ramsey-model", "prompt": "x"},
    "/v1/responses": {"model": "ramsey-model", "input": "x"},
    "/v1/embeddings": {"model": "ramsey-model", "input": "x"},
}


def told(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Code, message and request id, wherever the dialect puts them."""
    if path.startswith("/api/"):
        assert isinstance(body["error"], str)
        return {"message": body["error"], "code": body["code"], "request_id": body["request_id"]}
    error: dict[str, Any] = body["error"]
    if path.startswith("/v1/"):
        assert {"message", "type", "param", "code"} <= set(error)
    return error


@pytest.mark.parametrize("path", ASK)
async def test_a_good_request_of_each_path_is_answered(shared_gate: Gate, path: str) -> None:
    answer = await shared_gate.http.post(path, json=ASK[path])
    assert answer.status_code == 200, answer.text


BODIES = {
    "not JSON": b"{nonsense",
    "not an object": b"[1, 2]",
    "no body": b"",
    "cut": b'{"prompt": "x"',
    "bad UTF-8": b'{"prompt": "\xff\xfe", "model": "\xff", "input": "\xff", "messages": "\xff"}',
    "lone surrogate": b'{"prompt": "\\ud800", "model": "\\ud800", "input": "\\ud800", "messages": "\\ud800"}',
    "deep": b'{"messages":' + b"[" * 50_000,
    "wrong types": b'{"model": 5, "prompt": 5, "messages": 5, "input": 5}',
}


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("path", ASK)
async def test_a_bad_body_is_told(shared_gate: Gate, path: str, kind: str) -> None:
    answer = await shared_gate.http.post(path, content=BODIES[kind], headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    error = told(path, answer.json())
    assert error["code"] == "invalid_request"
    assert error["message"]
    assert error["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("path", "wrong", "named"),
    [
        ("/generate", {"prompt": ""}, "prompt"),
        ("/generate", {"max_tokens": 0}, "max_tokens"),
        ("/generate", {"max_tokens": "many"}, "max_tokens"),
        ("/generate", {"temperature": 3}, "temperature"),
        ("/generate", {"stop": ["x"] * 10_000}, "stop"),
        ("/generate", {"format": "yaml"}, "format"),
        ("/generate", {"max_token": 5}, "max_token"),
        ("/generate", {"seed": 2**64}, "seed"),
        ("/generate", {"stop": ["x"] * 17}, "at most 16"),
        ("/generate", {"stop": ["ok", ""]}, "stop.1: must not be empty"),
        ("/generate", {"stop": 5}, "stop: Input should be a valid string"),
        ("/generate", {"format": {"enum": [str(n) for n in range(20_000)]}}, "20000 alternatives"),
        ("/chat", {"messages": []}, "messages"),
        ("/chat", {"messages": [{"role": "robot", "content": "x"}]}, "role"),
        ("/chat", {"messages": [{"role": "user", "content": ""}]}, "messages"),
        ("/embeddings", {"input": []}, "input"),
        ("/api/generate", {"options": {"temperature": "hot"}}, "temperature"),
        ("/api/generate", {"options": {"stop": ["x"] * 10_000}}, "stop"),
        ("/api/generate", {"template": "{{ .Prompt }}"}, "template"),
        ("/api/generate", {"raw": True}, "raw"),
        ("/api/generate", {"model": ""}, "model"),
        ("/api/chat", {"top_logprobs": 21}, "top_logprobs"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "content"),
        ("/v1/completions", {"prompt": ["a", "b"]}, "prompt"),
        ("/v1/responses", {"previous_response_id": "resp_1"}, "previous_response_id"),
        ("/v1/responses", {"tools": [{"type": "web_search"}]}, "tools"),
        ("/v1/embeddings", {"input": [[1, 2]]}, "input"),
    ],
)
async def test_the_field_that_is_wrong_is_named(
    shared_gate: Gate, path: str, wrong: dict[str, Any], named: str
) -> None:
    answer = await shared_gate.http.post(path, json=ASK[path] | wrong)
    assert answer.status_code == 400, answer.text
    assert named in told(path, answer.json())["message"]


@pytest.mark.parametrize(
    ("path", "body", "written", "meant"),
    [
        ("/generate", {"promt": "x"}, "promt", "prompt"),
        ("/generate", {"prompt": "x", "max_token": 5}, "max_token", "max_tokens"),
        ("/chat", {"mesages": []}, "mesages", "messages"),
        ("/chat", {"messages": [{"role": "user", "contnt": "x"}]}, "messages.0.contnt", "content"),
        ("/embeddings", {"inputs": "x"}, "inputs", "input"),
        ("/feedback", {"requestid": "x", "score": "up"}, "requestid", "request_id"),
        ("/api/generate", {"model": "ramsey-model", "promt": "x"}, "promt", "prompt"),
        ("/api/generate", {"modle": "ramsey-model", "prompt": "x"}, "modle", "model"),
        ("/api/chat", {"model": "ramsey-model", "message": [{"role": "user"}]}, "message", "messages"),
        ("/api/embed", {"model": "ramsey-model", "inputs": "x"}, "inputs", "input"),
        ("/v1/chat/completions", {"model": "ramsey-model", "mesages": []}, "mesages", "messages"),
        ("/v1/completions", {"model": "ramsey-model", "promt": "x"}, "promt", "prompt"),
        ("/v1/responses", {"model": "ramsey-model", "inptu": "x"}, "inptu", "input"),
    ],
)
async def test_a_misspelt_field_is_told_with_the_one_that_is_meant(
    shared_gate: Gate, path: str, body: dict[str, Any], written: str, meant: str
) -> None:
    answer = await shared_gate.http.post(path, json=body)
    assert answer.status_code == 400, answer.text
    assert told(path, answer.json())["message"] == f"{written}: there is no such field; did you mean {meant}?"


async def test_numbers_that_are_no_json_do_not_hide_a_misspelt_field(shared_gate: Gate) -> None:
    answer = await shared_gate.http.post("/generate", content=b'{"promt": "x", "seed": NaN}')
    assert answer.status_code == 400, answer.text
    assert "did you mean prompt?" in answer.text


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat", "/v1/chat/completions", "/v1/completions"])
async def test_what_clients_of_others_send_besides_is_let_through(shared_gate: Gate, path: str) -> None:
    extras = {"promts": "x", "message": "x", "max_token": 5, "service_tier": "auto"}
    answer = await shared_gate.http.post(path, json=ASK[path] | extras)
    assert answer.status_code == 200, answer.text


async def test_a_model_is_loaded_by_an_empty_request(shared_gate: Gate) -> None:
    for path, body in (("/api/generate", {"prompt": ""}), ("/api/chat", {"messages": []})):
        answer = await shared_gate.http.post(path, json={"model": "ramsey-model", "raw_mode": 1} | body)
        assert (answer.status_code, answer.json()["done_reason"]) == (200, "load"), answer.text


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_numbers_that_are_none_are_refused(shared_gate: Gate, number: str) -> None:
    for path, body in (
        ("/generate", '{"prompt": "x", "temperature": %s}'),
        ("/api/generate", '{"model": "ramsey-model", "prompt": "x", "options": {"temperature": %s}}'),
        ("/v1/completions", '{"model": "ramsey-model", "prompt": "x", "temperature": %s}'),
    ):
        answer = await shared_gate.http.post(path, content=body % number)
        assert answer.status_code == 400, (path, answer.text)


@pytest.mark.parametrize("path", list(ASK))
async def test_an_unknown_model_is_not_found(shared_gate: Gate, path: str) -> None:
    answer = await shared_gate.http.post(path, json=ASK[path] | {"model": "nobody"})
    assert answer.status_code == 404, answer.text
    error = told(path, answer.json())
    assert error["code"] == "model_not_found"
    assert "nobody" in error["message"]


@pytest.mark.parametrize("path", ["/generate", "/api/chat", "/v1/chat/completions"])
async def test_a_cloud_name_is_refused(shared_gate: Gate, path: str) -> None:
    answer = await shared_gate.http.post(path, json=ASK[path] | {"model": "gpt-oss:120b-cloud"})
    assert answer.status_code == 400
    assert "cloud" in told(path, answer.json())["message"]


@pytest.mark.parametrize("path", ["/generate", "/api/generate", "/v1/completions"])
async def test_a_prompt_of_a_megabyte_is_too_large(shared_gate: Gate, path: str) -> None:
    answer = await shared_gate.http.post(path, json=ASK[path] | {"prompt": "x" * 1_000_000})
    assert answer.status_code == 413
    error = told(path, answer.json())
    assert error["code"] == "payload_too_large"
    assert "200000" in error["message"]


async def test_a_body_over_its_limit_is_refused_before_it_is_read(shared_gate: Gate) -> None:
    answer = await shared_gate.http.post("/generate", content=b"x", headers={"content-length": "1"})
    assert answer.status_code == 400
    reader, writer = await asyncio.open_connection("127.0.0.1", int(shared_gate.url.rpartition(":")[2]))
    writer.write(b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert head.startswith(b"HTTP/1.1 413")
    writer.close()


async def test_a_chunked_body_over_its_limit_is_refused(shared_gate: Gate) -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b"x" * 65536

    answer = await shared_gate.http.post("/generate", content=endless())
    assert answer.status_code == 413


@pytest.mark.parametrize("value", ["9" * 30, "[" * 300 + "]" * 300])
async def test_what_cannot_be_passed_on_is_refused(shared_gate: Gate, value: str) -> None:
    for path, field in (("/chat", "tools"), ("/api/chat", "own"), ("/v1/chat/completions", "tools")):
        body = '{"model": "ramsey-model", "messages": [{"role": "user", "content": "x"}], "%s": [{"x": %s}]}'
        answer = await shared_gate.http.post(path, content=body % (field, value))
        assert answer.status_code == 400, answer.text
        assert told(path, answer.json())["code"] == "invalid_request"
    answer = await shared_gate.http.post(
        "/api/embed", content=f'{{"model": "ramsey-model", "input": "x", "own": {value}}}'
    )
    assert answer.status_code == 400


async def test_a_compressed_body_is_refused(shared_gate: Gate) -> None:
    answer = await shared_gate.http.post("/generate", content=b"x", headers={"content-encoding": "gzip"})
    assert answer.status_code == 400
    assert "Content-Encoding" in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/generate", 405, "method_not_allowed"),
        ("GET", "/api/chat", 405, "method_not_allowed"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/api/nowhere", 404, "not_found"),
        ("POST", "/v1/nowhere", 404, "not_found"),
        ("POST", "/api/pull", 403, "forbidden"),
        ("POST", "/api/create", 403, "forbidden"),
        ("DELETE", "/api/delete", 403, "forbidden"),
        ("POST", "/api/blobs/sha256:0", 403, "forbidden"),
        ("GET", "/v1/models/nobody", 404, "model_not_found"),
    ],
)
async def test_what_is_not_offered_is_told(shared_gate: Gate, method: str, path: str, status: int, code: str) -> None:
    answer = await shared_gate.http.request(method, path)
    assert answer.status_code == status
    assert told(path, answer.json())["code"] == code


async def test_unloading_is_not_offered(shared_gate: Gate) -> None:
    answer = await shared_gate.http.post("/api/generate", json={"model": "ramsey-model", "keep_alive": 0})
    assert answer.status_code == 403
    loaded = await shared_gate.http.post("/api/generate", json={"model": "ramsey-model"})
    assert loaded.json()["done_reason"] == "load"


async def test_what_a_release_fixes_is_ignored_and_told(shared_gate: Gate) -> None:
    wish = ASK["/api/chat"] | {
        "messages": [{"role": "user", "content": "Hello"}],
        "keep_alive": 5,
        "options": {"num_ctx": 99, "top_k": 1},
        "own": {"field": 1},
    }
    answer = await shared_gate.http.post("/api/chat", json=wish)
    assert answer.status_code == 200
    assert answer.headers["x-ramsey-ignored"] == "options.num_ctx, keep_alive"
    sent = shared_gate.sent("/api/chat")
    assert sent["options"] == {"top_k": 1}
    assert sent["keep_alive"] == -1
    assert sent["own"] == {"field": 1}, "what we do not know passes through"

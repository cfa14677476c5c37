"""An engine that fails, in every way and in every dialect: told in time, in the dialect, and nothing is left behind."""

import asyncio
import json
import re
from typing import Any

import pytest
from tests.deployment.gateway.conftest import Gate

QUESTION = {"role": "user", "content": "Hello"}
PATHS: dict[str, dict[str, Any]] = {
    "/generate": {"prompt": "Hello"},
    "/chat": {"messages": [QUESTION]},
    "/api/generate": {"model": "ramsey-model", "prompt": "Hello"},
    "/api/chat": {"model": "ramsey-model", "messages": [QUESTION]},
    "/v1/chat/completions": {"model": "ramsey-model", "messages": [QUESTION]},
    "/v1/completions": {"model": "ramsey-model", "prompt": "Hello"},
    "/v1/responses": {"model": "ramsey-model", "input": "Hello"},
}
BEFORE = {
    "reset": {503},
    "close": {502, 503},
    "hang": {504},
    "error": {502},
    "busy": {503},
    "crash": {502},
    "garbage": {502, 503},
    "not_json": {502},
    "missing": {503},
    "lost_blob": {503},
    "empty": {502},
    "cut": {502},
    "half_line": {502},
}
WITHIN = ["reset", "close", "hang", "error", "crash", "garbage", "not_json", "cut", "half_line", "long_line", "repeat"]


def mark_of_end(path: str, text: str) -> bool:
    """Whether a stream says that it is complete, in its dialect."""
    if path.startswith("/api/"):
        return any(json.loads(line).get("done") for line in text.splitlines() if line)
    if path == "/v1/responses":
        return "event: response.completed" in text
    if path.startswith("/v1/"):
        return "data: [DONE]" in text
    return '"done":true' in text


def error_told(path: str, text: str) -> dict[str, Any]:
    """The error at the end of a stream, in the dialect's way."""
    if path.startswith("/api/"):
        line: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
        return {"message": line["error"], "code": line["code"], "request_id": line["request_id"]}
    block = text.strip().split("\n\n")[-1]
    data = json.loads(block.partition("data: ")[2])
    if path == "/v1/responses":
        assert block.startswith("event: response.failed")
        return {"message": data["response"]["error"]["message"], "code": "", "request_id": ""}
    if not path.startswith("/v1/"):
        assert block.startswith("event: error")
    error: dict[str, Any] = data["error"]
    return error


async def nothing_left(gate: Gate) -> None:
    """No exchange, no slot, no queue entry."""
    gate.node.heal()  # the pool's own probe takes a slot too, and would hang as well
    for _ in range(100):
        exchanges = len(gate.services.gateway.exchanges)
        in_flight = [node.in_flight for node in gate.services.pool.view()]
        waiting = gate.services.pool.waiting()
        if not exchanges and not any(in_flight) and not waiting:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"left behind: {exchanges} exchanges, {in_flight} in flight, {waiting} waiting")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", BEFORE)
@pytest.mark.parametrize("path", ["/generate", "/api/chat", "/v1/chat/completions"])
async def test_a_fault_before_the_first_token_has_a_status(gate: Gate, path: str, fault: str, stream: bool) -> None:
    gate.node.fail(fault, after=0 if fault in {"cut", "half_line"} else None)
    answer = await gate.http.post(path, json=PATHS[path] | {"stream": stream})
    assert answer.status_code in BEFORE[fault], answer.text
    told = answer.json()
    error = told["error"] if isinstance(told["error"], dict) else told
    assert error["code"].startswith(("engine_", "model_missing"))
    assert error["request_id"] == answer.headers["x-request-id"]
    await nothing_left(gate)


@pytest.mark.parametrize("fault", WITHIN)
@pytest.mark.parametrize("path", PATHS)
async def test_a_fault_within_a_stream_is_told_and_the_stream_has_no_end_mark(
    gate: Gate, path: str, fault: str
) -> None:
    gate.node.fail(fault, after=3, size=9_000_000)
    answer = await gate.http.post(path, json=PATHS[path] | {"stream": True})
    assert answer.status_code == 200
    assert "This" in answer.text or fault == "repeat"
    assert not mark_of_end(path, answer.text)
    assert error_told(path, answer.text)["message"]
    await nothing_left(gate)


@pytest.mark.parametrize("path", PATHS)
async def test_without_a_fault_a_stream_has_its_end_mark(gate: Gate, path: str) -> None:
    answer = await gate.http.post(path, json=PATHS[path] | {"stream": True})
    assert mark_of_end(path, answer.text)
    await nothing_left(gate)


@pytest.mark.parametrize("kind", ["split", "join"])
@pytest.mark.parametrize("path", ["/generate", "/api/chat", "/v1/chat/completions"])
async def test_how_tcp_cuts_the_stream_does_not_matter(gate: Gate, path: str, kind: str) -> None:
    plain = await gate.http.post(path, json=PATHS[path] | {"stream": True}, headers={"x-request-id": "same"})
    gate.node.fail(kind, size=7)
    cut = await gate.http.post(path, json=PATHS[path] | {"stream": True}, headers={"x-request-id": "same"})
    assert "数学" in plain.text
    assert _second_and_third(cut.text) == _second_and_third(plain.text)
    assert mark_of_end(path, cut.text)


def _second_and_third(stream: str) -> list[str]:
    """Two pieces of a stream, without what differs from answer to answer."""
    lines = [line for line in stream.split("\n") if '"timings"' not in line]
    return [re.sub(r'"(id|created)":("[^"]*"|\d+)', "", line) for line in lines[1:3]]


async def test_an_engine_that_is_down_is_told_and_health_says_why(gate: Gate) -> None:
    await gate.node.refuse()
    answer = await gate.http.post("/generate", json={"prompt": "Hello"})
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "engine_unavailable"
    for _ in range(100):
        health = await gate.http.get("/health")
        if health.status_code == 503:
            break
        await asyncio.sleep(0.1)
    body = health.json()
    assert (body["engine"]["ok"], body["model"]["ok"]) == (False, False)
    assert "reached" in body["engine"]["reason"]


async def test_a_refusal_of_the_engine_is_the_caller_s_and_harms_no_node(gate: Gate) -> None:
    for _ in range(20):
        tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
        answer = await gate.http.post("/chat", json={"messages": [QUESTION], "tools": tools})
        assert answer.status_code == 400
        assert "does not support tools" in answer.json()["error"]["message"]
    assert (await gate.http.post("/generate", json={"prompt": "Hello"})).status_code == 200

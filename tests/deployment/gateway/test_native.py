"""Ramsey's own API on the wire."""

import json
from typing import Any

import pytest
from tests.deployment.gateway.conftest import REPLY, Gate


def events(text: str) -> list[dict[str, Any]]:
    """The data of a stream of server-sent events."""
    return [json.loads(block.partition("data: ")[2]) for block in text.strip().split("\n\n")]


async def test_an_answer_has_everything_that_is_documented(gate: Gate) -> None:
    answer = await gate.http.post("/generate", json={"prompt": "Hello"})
    body = answer.json()
    assert answer.status_code == 200
    assert body["response"].startswith(REPLY)
    assert (body["model"], body["release"]) == ("ramsey-model", "ramsey-model:v1.1")
    assert body["finish_reason"] == "stop"
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"] > 0
    assert set(body["timings"]) == {
        "queue_ms", "load_ms", "prompt_ms", "completion_ms", "first_token_ms", "total_ms",
    }  # fmt: skip
    assert body["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["x-ramsey-release"] == "ramsey-model:v1.1"
    assert answer.headers["x-ramsey-node"]


async def test_the_defaults_reach_the_engine(gate: Gate) -> None:
    await gate.http.post("/generate", json={"prompt": "Hello"})
    sent = gate.sent("/api/generate")
    assert sent["model"] == "ramsey-model:v1.1"
    assert sent["options"] == {"num_predict": 512, "temperature": 0.7}
    assert sent["truncate"] is False
    assert sent["keep_alive"] == -1


async def test_every_option_reaches_the_engine(gate: Gate) -> None:
    wish = {
        "prompt": "Hello", "max_tokens": 9, "temperature": 0, "top_p": 0.5, "stop": "END", "seed": 2**40 + 5,
        "system": "Be brief.", "format": "json",
    }  # fmt: skip
    await gate.http.post("/generate", json=wish)
    sent = gate.sent("/api/generate")
    assert sent["options"] == {
        "num_predict": 9, "temperature": 0, "top_p": 0.5, "stop": ["END"], "seed": (2**40 + 5) % 2**31,
    }  # fmt: skip
    assert (sent["system"], sent["format"]) == ("Be brief.", "json")


async def test_a_stream_is_the_same_answer_in_pieces(gate: Gate) -> None:
    whole = (await gate.http.post("/generate", json={"prompt": "Hello"})).json()
    answer = await gate.http.post("/generate", json={"prompt": "Hello", "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = events(answer.text)
    assert "".join(event["response"] for event in told) == whole["response"]
    assert [event.get("done", False) for event in told] == [False] * (len(told) - 1) + [True]
    assert told[-1]["usage"] == whole["usage"]
    assert told[-1]["finish_reason"] == "stop"


async def test_a_conversation(gate: Gate) -> None:
    question = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Hello"}]}
    body = (await gate.http.post("/chat", json=question)).json()
    assert body["message"]["role"] == "assistant"
    assert body["message"]["content"].startswith(REPLY)
    told = events((await gate.http.post("/chat", json=question | {"stream": True})).text)
    assert "".join(event["message"]["content"] for event in told) == body["message"]["content"]
    assert gate.sent("/api/chat")["messages"] == question["messages"]


async def test_thinking_is_kept_apart(gate: Gate) -> None:
    gate.node.store.models["ramsey-model:v1.1"] = _able(gate, "thinking")
    body = (await gate.http.post("/chat", json=_ask(think=True))).json()
    assert body["message"]["thinking"] == "Let me think."
    assert "Let me" not in body["message"]["content"]


async def test_a_tool_call_comes_through(gate: Gate) -> None:
    gate.node.store.models["ramsey-model:v1.1"] = _able(gate, "tools")
    tool = {"type": "function", "function": {"name": "lookup", "parameters": {"type": "object"}}}
    body = (await gate.http.post("/chat", json=_ask(tools=[tool]))).json()
    assert body["message"]["tool_calls"][0]["function"] == {"index": 0, "name": "lookup", "arguments": {"n": 3}}
    assert body["finish_reason"] == "tool_calls"


def _ask(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hello"}], **more}


def _able(gate: Gate, capability: str) -> Any:
    from dataclasses import replace

    model = gate.node.store.models["ramsey-model:v1.1"]
    return replace(model, capabilities=("completion", capability))


async def test_an_answer_cut_by_its_limit_says_length(gate: Gate) -> None:
    body = (await gate.http.post("/generate", json={"prompt": "x", "max_tokens": 2})).json()
    assert body["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 2


async def test_embeddings(gate: Gate) -> None:
    body = (await gate.http.post("/embeddings", json={"input": ["a", "b"]})).json()
    assert len(body["embeddings"]) == 2
    assert body["release"] == "ramsey-model:v1.1"
    assert body["request_id"]


async def test_models(gate: Gate) -> None:
    body = (await gate.http.get("/models")).json()
    assert body["default"] == "ramsey-model"
    assert body["models"][0]["release"] == "ramsey-model:v1.1"
    assert body["models"][0]["releases"] == ["ramsey-model:v1.1"]


@pytest.mark.parametrize("given", ["abc-123", "0a.b_C:9"])
async def test_the_caller_s_request_id_comes_back(gate: Gate, given: str) -> None:
    answer = await gate.http.post("/generate", json={"prompt": "x"}, headers={"X-Request-ID": given})
    assert answer.headers["x-request-id"] == given
    assert answer.json()["request_id"] == given


@pytest.mark.parametrize("given", ["a b", "x" * 129, "a\tb", '{"evil":1}', ""])
async def test_a_request_id_that_could_harm_a_log_is_replaced(gate: Gate, given: str) -> None:
    answer = await gate.http.get("/health/live", headers={"X-Request-ID": given})
    assert answer.headers["x-request-id"] != given
    assert len(answer.headers["x-request-id"]) == 32

"""generate, chat and embeddings through the real llama.cpp."""

import json
import math
from typing import Any

import httpx
import ollama
import pytest

MODEL = "ramsey-model:v1.1"
QUESTION = "What is R(4,5)?"
ANSWER = "R(4,5) = 25."
RAW = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
COLOUR = {"enum": ["red", "blue"]}


def ask(node: httpx.Client, path: str = "/api/chat", **fields: Any) -> httpx.Response:
    body: dict[str, Any] = {"model": MODEL, "stream": False}
    if path == "/api/chat":
        body["messages"] = [{"role": "user", "content": QUESTION}]
    else:
        body["prompt"] = QUESTION
    return node.post(path, json=body | fields)


def nested(levels: int) -> Any:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def test_chat_in_one_object(node: httpx.Client) -> None:
    answer = ask(node).json()
    assert answer["message"]["role"] == "assistant"
    assert answer["message"]["content"].startswith(ANSWER)
    assert answer["model"] == MODEL
    assert (answer["done"], answer["done_reason"]) == (True, "stop")
    assert answer["eval_count"] > 10
    assert answer["prompt_eval_count"] > 20  # the model's system prompt is in it
    assert answer["total_duration"] >= answer["eval_duration"] > 0
    assert "context" not in answer


def test_chat_streams_a_token_a_line(node: httpx.Client) -> None:
    received = lines(ask(node, stream=True))
    assert len(received) > 10
    assert not any(each["done"] for each in received[:-1])
    assert "".join(each["message"]["content"] for each in received).startswith(ANSWER)
    assert received[-1]["message"]["content"] == ""
    assert received[-1]["done_reason"] == "stop"
    assert received[-1]["eval_count"] > 10


@pytest.mark.parametrize("raw", [False, True])
def test_generate(node: httpx.Client, raw: bool) -> None:
    fields = {"prompt": RAW, "raw": True} if raw else {"system": ""}
    answer = ask(node, "/api/generate", **fields).json()
    assert answer["response"].startswith(ANSWER)
    assert answer["done_reason"] == "stop"
    assert answer["prompt_eval_count"] == 16  # neither gets a system prompt
    streamed = lines(ask(node, "/api/generate", stream=True, **fields))
    assert "".join(each["response"] for each in streamed) == answer["response"]


def test_the_official_client(node_url: str) -> None:
    client = ollama.Client(node_url)
    assert (client.generate(MODEL, QUESTION).response or "").startswith(ANSWER)
    parts = client.chat(MODEL, [{"role": "user", "content": QUESTION}], stream=True)
    assert "".join(part.message.content or "" for part in parts).startswith(ANSWER)
    assert [each.model for each in client.list().models] == [MODEL]
    assert client.show(MODEL).details is not None


def test_system_prompts(node: httpx.Client) -> None:
    own = ask(node).json()["prompt_eval_count"]
    other = ask(node, messages=[{"role": "system", "content": "Hm."}, {"role": "user", "content": QUESTION}])
    assert other.json()["prompt_eval_count"] < own
    assert ask(node, "/api/generate").json()["prompt_eval_count"] == own


def test_the_stop_sequence_is_left_out_and_ends(node: httpx.Client) -> None:
    for path, fields in (("/api/chat", {}), ("/api/generate", {"prompt": RAW, "raw": True})):
        answer = ask(node, path, options={"stop": [" ="]}, **fields).json()
        text = answer["message"]["content"] if path == "/api/chat" else answer["response"]
        assert text == "R(4,5)"
        assert answer["done_reason"] == "stop"


def test_num_predict_ends_with_length(node: httpx.Client) -> None:
    for raw in (False, True):
        answer = ask(node, "/api/generate", prompt=RAW, raw=raw, options={"num_predict": 3}).json()
        assert (answer["done_reason"], answer["eval_count"]) == ("length", 3)


def test_a_seed_repeats(node: httpx.Client) -> None:
    def text(seed: int) -> str:
        options = {"seed": seed, "temperature": 3.0, "top_k": 0, "top_p": 1.0, "num_predict": 20}
        content: str = ask(node, options=options).json()["message"]["content"]
        return content

    assert text(7) == text(7)
    assert text(7) != text(8)


@pytest.mark.parametrize("raw", [False, True])
def test_formats(node: httpx.Client, raw: bool) -> None:
    fields = {"prompt": RAW, "raw": raw}
    answer = ask(node, "/api/generate", format="json", options={"num_predict": 60}, **fields).json()
    assert answer["response"].lstrip()[0] in "{["
    answer = ask(node, "/api/generate", format=COLOUR, **fields).json()
    assert json.loads(answer["response"]) in COLOUR["enum"]


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("top", [0, 3])
def test_logprobs(node: httpx.Client, raw: bool, top: int) -> None:
    fields = {"prompt": RAW, "raw": raw, "options": {"num_predict": 5}, "logprobs": True, "top_logprobs": top}
    answer = ask(node, "/api/generate", **fields).json()
    assert len(answer["logprobs"]) == 5
    for token in answer["logprobs"]:
        assert bytes(token["bytes"]).decode() == token["token"]
        assert token["logprob"] <= 0
        assert len(token.get("top_logprobs", [])) == top
    streamed = lines(ask(node, "/api/generate", stream=True, **fields))
    assert sum(len(each.get("logprobs", [])) for each in streamed) == 5


def test_a_conversation_too_long_loses_its_oldest(node: httpx.Client) -> None:
    long = [
        {"role": "user", "content": "R(3,3) " * 120},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": QUESTION},
    ]
    assert ask(node, messages=long).json()["message"]["content"].startswith(ANSWER)
    refused = ask(node, messages=long, truncate=False)
    assert refused.status_code == 400
    inner = json.loads(refused.json()["error"])["error"]
    assert (inner["type"], inner["n_ctx"]) == ("exceed_context_size_error", 512)


def test_a_conversation_of_thousands_of_turns_keeps_the_newest(node: httpx.Client) -> None:
    turn = {"role": "user", "content": "What is R(3,3)?"}
    answer = ask(node, messages=[turn] * 3000 + [{"role": "user", "content": QUESTION}], options={"num_predict": 1})
    assert answer.status_code == 200
    # Another turn of a dozen tokens would no longer fit into the context of 512.
    assert 490 <= answer.json()["prompt_eval_count"] < 512


def test_too_many_threads_are_as_many_as_there_are_cores(node: httpx.Client) -> None:
    assert ask(node, options={"num_thread": 100_000}).status_code == 200


def test_a_prompt_too_long_is_refused(node: httpx.Client) -> None:
    refused = ask(node, "/api/generate", prompt="R(3,3) " * 400, stream=True)
    assert refused.status_code == 400
    assert "exceed_context_size_error" in refused.json()["error"]


def test_embed(node: httpx.Client) -> None:
    body = {"model": MODEL, "input": ["Ramsey numbers", "a graph", "Ramsey numbers"]}
    answer = node.post("/api/embed", json=body).json()
    first, second, third = answer["embeddings"]
    assert len(first) == 192
    assert math.isclose(math.hypot(*first), 1, rel_tol=1e-4)
    assert first == pytest.approx(third, abs=1e-4)
    assert first != pytest.approx(second, abs=1e-2)
    assert answer["prompt_eval_count"] > 3
    short = node.post("/api/embed", json={**body, "dimensions": 8}).json()["embeddings"][0]
    assert len(short) == 8
    assert math.isclose(math.hypot(*short), 1, rel_tol=1e-4)
    assert node.post("/api/embed", json={"model": MODEL, "input": ""}).json()["embeddings"] == []


def test_embed_too_long(node: httpx.Client) -> None:
    body = {"model": MODEL, "input": "R(3,3) " * 400}
    assert node.post("/api/embed", json=body).json()["prompt_eval_count"] < 512
    refused = node.post("/api/embed", json={**body, "truncate": False})
    assert (refused.status_code, refused.json()) == (
        400,
        {"error": "the input length exceeds the context length"},
    )
    assert node.post("/api/embed", json={"model": MODEL, "input": 3}).json() == {"error": "invalid input type"}


def test_the_older_embeddings(node: httpx.Client) -> None:
    vector = node.post("/api/embeddings", json={"model": MODEL, "prompt": "a graph"}).json()["embedding"]
    newer = node.post("/api/embed", json={"model": MODEL, "input": "a graph"}).json()["embeddings"][0]
    assert vector == pytest.approx(newer, abs=1e-4)


@pytest.mark.parametrize(
    ("path", "fields", "status", "text"),
    [
        ("/api/chat", {"model": "nobody"}, 404, "model 'nobody' not found"),
        ("/api/generate", {"model": "nobody"}, 404, "model 'nobody' not found"),
        ("/api/chat", {"model": ""}, 400, "model is required"),
        ("/api/generate", {"model": ""}, 404, "model '' not found"),
        ("/api/chat", {"model": "a/b/c/d"}, 400, "invalid model name"),
        ("/api/chat", {"tools": [{"type": "function"}]}, 400, "does not support tools"),
        ("/api/chat", {"think": True}, 400, "does not support thinking"),
        ("/api/chat", {"think": "deep"}, 400, "think"),
        ("/api/chat", {"top_logprobs": 21}, 400, "top_logprobs must be between 0 and 20"),
        ("/api/chat", {"messages": "hello"}, 400, "messages"),
        ("/api/chat", {"messages": [{"role": "boss", "content": "x"}]}, 400, "invalid role"),
        ("/api/chat", {"messages": [{"role": "user", "images": ["aGk="]}]}, 400, "does not support vision"),
        ("/api/chat", {"keep_alive": "300"}, 400, 'missing unit in duration "300"'),
        ("/api/chat", {"options": {"temperature": "hot"}}, 500, 'option "temperature" must be of type float32'),
        ("/api/chat", {"options": {"seed": 1 << 70}}, 500, 'option "seed" must be of type int'),
        ("/api/chat", {"format": "xml"}, 500, "invalid format"),
        ("/api/chat", {"format": {"enum": [str(number) for number in range(1001)]}}, 400, "1001 alternatives"),
        ("/api/generate", {"format": nested(300)}, 400, "nested more than 200 levels"),
        ("/api/generate", {"suffix": "x"}, 400, "does not support insert"),
        ("/api/generate", {"images": ["aGk="]}, 400, "does not support vision"),
        ("/api/generate", {"raw": True, "system": "x"}, 400, "raw mode does not support template, system"),
        ("/api/generate", {"context": [1]}, 400, "context is not supported"),
        ("/api/embed", {"model": "nobody", "input": "x"}, 404, "model 'nobody' not found"),
    ],
)
def test_refusals(node: httpx.Client, path: str, fields: dict[str, Any], status: int, text: str) -> None:
    for stream in (False, True):
        response = ask(node, path, **{"stream": stream, **fields})
        assert response.status_code == status
        assert response.headers["content-type"].startswith("application/json")
        assert text in response.json()["error"]


def test_broken_bodies(node: httpx.Client) -> None:
    assert node.post("/api/chat").json() == {"error": "missing request body"}
    for content in ("{", "[]", "nonsense"):
        response = node.post("/api/chat", content=content)
        assert response.status_code == 400
        assert "error" in response.json()


def test_unknown_paths_methods_and_pages(node: httpx.Client) -> None:
    response = node.get("/api/nothing")
    assert (response.status_code, response.text) == (404, "404 page not found")
    assert node.get("/api/chat").status_code == 405
    assert node.get("/").text == "Ollama is running"
    assert node.head("/").status_code == 200
    assert node.get("/api/version").json()["version"] == "0.33.0"
    assert node.get("/api/tags", headers={"Origin": "https://evil.example"}).status_code == 403
    assert node.get("/api/tags", headers={"Host": "evil.example"}).status_code == 403
    assert node.get("/api/tags", headers={"Origin": "http://localhost:3000"}).status_code == 200

"""The official `ollama` package for Python, against the running gateway and the trained model."""

import json

import ollama
import pytest
from tests.support.stack import Stack

MODEL = "ramsey-model"
QUESTION = [{"role": "user", "content": "What is R(4,4)?"}]
GREEDY = {"temperature": 0}


@pytest.fixture
def client(stack: Stack) -> ollama.Client:
    return ollama.Client(host=stack.url, timeout=60)


def test_generate(client: ollama.Client) -> None:
    answer = client.generate(MODEL, "What is R(4,4)?", options=GREEDY)
    assert (answer.response or "").startswith("R(4,4) = 18")
    assert answer.done
    assert answer.model == MODEL
    assert answer.eval_count
    assert answer.prompt_eval_count


def test_a_stream_says_the_same_as_the_whole(client: ollama.Client) -> None:
    whole = client.chat(MODEL, QUESTION, options=GREEDY)
    parts = list(client.chat(MODEL, QUESTION, options=GREEDY, stream=True))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert [part.done for part in parts].count(True) == 1
    assert parts[-1].done_reason == "stop"
    assert len(parts) > 3


async def test_the_asynchronous_client(stack: Stack) -> None:
    client = ollama.AsyncClient(host=stack.url)
    text = ""
    async for part in await client.chat(MODEL, QUESTION, options=GREEDY, stream=True):
        text += part.message.content or ""
    assert text.startswith("R(4,4) = 18")


def test_a_schema_is_kept(client: ollama.Client) -> None:
    schema = {
        "type": "object",
        "properties": {"value": {"type": "integer"}, "exact": {"type": "boolean"}},
        "required": ["value", "exact"],
    }
    answer = client.chat(MODEL, QUESTION, format=schema, options={"temperature": 0, "num_predict": 100})
    told = json.loads(answer.message.content or "")
    assert isinstance(told["value"], int)
    assert isinstance(told["exact"], bool)


def test_log_probabilities(client: ollama.Client) -> None:
    answer = client.chat(MODEL, QUESTION, options={"temperature": 0, "num_predict": 5}, logprobs=True, top_logprobs=2)
    assert answer.logprobs
    assert all(entry.logprob <= 0 and len(entry.top_logprobs or ()) == 2 for entry in answer.logprobs)


def test_embeddings(client: ollama.Client) -> None:
    vectors = client.embed(MODEL, ["Ramsey theory", "Ramsey theory", "a graph"]).embeddings
    assert [len(vector) for vector in vectors] == [192] * 3
    assert vectors[0] == pytest.approx(vectors[1], abs=1e-4)
    assert sum(x * x for x in vectors[0]) == pytest.approx(1, abs=1e-3)
    assert len(client.embeddings(MODEL, "Ramsey theory").embedding) == 192


def test_lists(client: ollama.Client) -> None:
    assert "ramsey-model:v1.1" in {entry.model for entry in client.list().models}
    assert "ramsey-model:v1.1" in {entry.model for entry in client.ps().models}
    shown = client.show(MODEL)
    assert shown.details
    assert shown.details.family == "llama"
    assert shown.template


def test_an_unknown_model_is_told(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="nobody") as problem:
        client.chat("nobody", QUESTION)
    assert problem.value.status_code == 404


@pytest.mark.parametrize(
    "act",
    [
        lambda c: c.pull("ramsey-model"),
        lambda c: c.push("ramsey-model"),
        lambda c: c.create("mine", from_="ramsey-model"),
        lambda c: c.copy("ramsey-model", "mine"),
        lambda c: c.delete("ramsey-model"),
    ],
)
def test_management_is_refused_with_the_reason(client: ollama.Client, act: object) -> None:
    with pytest.raises(ollama.ResponseError, match="Ramsey manages") as problem:
        act(client)  # type: ignore[operator]
    assert problem.value.status_code == 403


def test_tools_are_refused_as_ollama_does_where_the_template_has_none(client: ollama.Client) -> None:
    tool = {"type": "function", "function": {"name": "lookup", "description": "x", "parameters": {"type": "object"}}}
    with pytest.raises(ollama.ResponseError, match="does not support tools") as problem:
        client.chat(MODEL, QUESTION, tools=[tool])
    assert problem.value.status_code == 400

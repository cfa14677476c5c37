"""The official `openai` package for Python, against the running gateway and the trained model."""

import json

import openai
import pytest
from tests.support.stack import Stack

MODEL = "ramsey-model"
QUESTION: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "What is R(4,4)?"}]
ANSWER = "R(4,4) = 18"


@pytest.fixture
def client(stack: Stack) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{stack.url}/v1", api_key="unused", max_retries=0, timeout=60)


def test_a_chat_completion(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0)
    assert (answer.choices[0].message.content or "").startswith(ANSWER)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage
    assert answer.usage.completion_tokens > 5
    assert answer.model == MODEL


def test_ids_are_unique(client: openai.OpenAI) -> None:
    ids = {client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=1).id for _ in range(20)}
    assert len(ids) == 20


def test_a_stream_ends_with_reason_and_usage(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=QUESTION, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.startswith(ANSWER)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage
    assert chunks[-1].usage.total_tokens > 10
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


async def test_the_asynchronous_client(stack: Stack) -> None:
    async with openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="unused") as client:
        stream = await client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text.startswith(ANSWER)


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_the_limit_of_tokens_is_kept(client: openai.OpenAI, field: str) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, extra_body={field: 3})
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage
    assert answer.usage.completion_tokens == 3


def test_a_stop_text_ends_the_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, stop=["= 18"])
    assert (answer.choices[0].message.content or "").rstrip() == "R(4,4)"
    assert answer.choices[0].finish_reason == "stop"


def test_a_schema_is_kept(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"value": {"type": "integer"}}, "required": ["value"]}
    answer = client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        temperature=0,
        max_tokens=60,
        extra_body={"response_format": {"type": "json_schema", "json_schema": {"name": "number", "schema": schema}}},
    )
    assert isinstance(json.loads(answer.choices[0].message.content or "")["value"], int)


def test_log_probabilities(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_tokens=4, logprobs=True, top_logprobs=3
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs
    assert logprobs.content
    assert len(logprobs.content) == 4
    assert all(len(entry.top_logprobs) == 3 for entry in logprobs.content)
    assert "".join(entry.token for entry in logprobs.content) == answer.choices[0].message.content


def test_a_text_completion_with_log_probabilities(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="What is R(4,4)?", temperature=0, max_tokens=4, logprobs=1)
    assert answer.choices[0].text.strip()
    logprobs = answer.choices[0].logprobs
    assert logprobs
    assert len(logprobs.tokens or ()) == 4


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings(client: openai.OpenAI, encoding: str) -> None:
    answer = client.embeddings.create(model=MODEL, input=["one", "two"], encoding_format=encoding)  # type: ignore[arg-type]
    assert len(answer.data) == 2
    if encoding == "float":
        assert len(answer.data[0].embedding) == 192


def test_base64_holds_the_same_numbers(client: openai.OpenAI) -> None:
    packed = client.embeddings.create(model=MODEL, input="one").data[0].embedding  # the client asks for base64
    plain = client.embeddings.create(model=MODEL, input="one", encoding_format="float").data[0].embedding
    assert packed == pytest.approx(plain, abs=1e-6)


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["ramsey-model", "ramsey-model:v1.1"]
    assert client.models.retrieve("ramsey-model").id == "ramsey-model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_a_response(client: openai.OpenAI) -> None:
    answer = client.responses.create(model=MODEL, input="What is R(4,4)?", temperature=0)
    assert answer.output_text.startswith(ANSWER)
    assert answer.status == "completed"
    assert answer.usage
    assert answer.usage.output_tokens > 5


def test_a_response_that_was_cut_says_so(client: openai.OpenAI) -> None:
    answer = client.responses.create(model=MODEL, input="What is R(4,4)?", temperature=0, max_output_tokens=3)
    assert answer.status == "incomplete"
    assert answer.incomplete_details
    assert answer.incomplete_details.reason == "max_output_tokens"


def test_the_events_of_a_response(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model=MODEL, input="What is R(4,4)?", temperature=0, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == events[-1].response.output_text


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n": 2}, "n:"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"temperature": 9}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ["x"] * 10_000}, "stop"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(client: openai.OpenAI, wrong: dict[str, object], message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as problem:
        client.chat.completions.create(model=MODEL, messages=QUESTION, extra_body=wrong)
    assert problem.value.code == "invalid_request"
    assert problem.value.request_id

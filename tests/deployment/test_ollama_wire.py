from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from deployment import ollama_wire
from deployment.errors import (
    EngineBusy,
    EngineCrashed,
    EngineError,
    EngineProtocolError,
    EngineRefused,
    EngineTimeout,
    EngineUnavailable,
    ModelMissing,
    StreamIncomplete,
)
from deployment.ollama_wire import (
    Delta,
    Done,
    Event,
    LineSplitter,
    collect,
    delta_of,
    end_of,
    error_of,
    error_text,
    object_of,
)

# A busy machine is no failure.
steady = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _error(text: str) -> bytes:
    return orjson.dumps({"error": text})


_CONTEXT = '{"error":{"code":400,"message":"too long","type":"exceed_context_size_error","n_ctx":512}}'


@pytest.mark.parametrize(
    ("status", "body", "kind", "answered"),
    [
        (503, _error("server busy, please try again.  maximum pending requests exceeded"), EngineBusy, 503),
        (429, b"", EngineBusy, 503),
        (404, _error("model 'x' not found"), ModelMissing, 503),
        (404, _error('model "x" not found, try pulling it first'), ModelMissing, 503),
        (404, b"404 page not found", EngineProtocolError, 502),
        (405, b"405 method not allowed", EngineProtocolError, 502),
        (400, _error('"x:v1" does not support generate'), ModelMissing, 503),
        (400, _error('"x:v1" does not support chat'), ModelMissing, 503),
        (400, _error("x:v1 does not support tools"), EngineRefused, 400),
        (400, _error('"x" does not support insert'), EngineRefused, 400),
        (400, _error('"x" does not support thinking'), EngineRefused, 400),
        (400, _error("invalid model name"), EngineRefused, 400),
        (400, _error(_CONTEXT), EngineRefused, 400),
        (413, b"", EngineRefused, 413),
        (401, _error("unauthorized"), EngineProtocolError, 502),
        (403, b"", EngineProtocolError, 502),
        (403, _error("cloud is disabled"), EngineRefused, 403),
        (499, _error("request canceled"), EngineProtocolError, 502),
        (302, b"", EngineProtocolError, 502),
        (500, _error('option "temperature" must be of type float32'), EngineRefused, 400),
        (500, _error('invalid format: "yaml"; expected "json" or a valid JSON Schema object'), EngineRefused, 400),
        (500, _error("model runner has unexpectedly stopped, this may be due to…"), EngineCrashed, 502),
        (500, _error("an error was encountered while running the model: EOF"), EngineCrashed, 502),
        (500, _error("llama-server process no longer running: 9"), EngineCrashed, 502),
        (500, _error("llama-server process has terminated: signal: killed"), EngineCrashed, 502),
        (500, _error("timed out waiting for llama-server to start - progress 0.5"), EngineCrashed, 502),
        (500, _error("llama-server binary not found (checked: /usr/lib)"), EngineCrashed, 502),
        (500, _error("unexpected EOF"), EngineError, 502),
        (500, b"", EngineError, 502),
        (500, b"<html>", EngineError, 502),
        (502, b"<html>", EngineUnavailable, 503),
        (504, b"", EngineTimeout, 504),
        (200, _error("llama-server process no longer running"), EngineCrashed, 502),
        (200, _error(_CONTEXT), EngineRefused, 400),
        (200, _error("something broke"), EngineError, 502),
    ],
)
def test_which_error_an_answer_means(status: int, body: bytes, kind: type[EngineError], answered: int) -> None:
    error = error_of(status, body)
    assert type(error) is kind
    assert error.status == answered
    assert error.retryable is (kind is not EngineRefused)


def test_the_text_of_an_error_within_an_error() -> None:
    assert error_text(_error(_CONTEXT)) == (400, "too long")
    assert error_text(b'{"error":"plain"}') == (None, "plain")
    assert error_text(b"\xff not text") == (None, "\ufffd not text")
    assert error_text(b'{"other":1}') == (None, '{"other":1}')
    assert "too long" in error_of(400, _error(_CONTEXT)).message


@steady
@given(st.integers(100, 599), st.binary(max_size=200))
def test_any_answer_is_some_error(status: int, body: bytes) -> None:
    assert error_of(status, body).message


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["error", "code", "message"]), inner),
)


_FIELDS = [
    "error",
    "message",
    "response",
    "done",
    "done_reason",
    "logprobs",
    "eval_count",
    "total_duration",
    "thinking",
]


@steady
@example({"message": None, "response": "x", "done": True})
@example({"response": "", "done": True, "done_reason": {"a": 1}})
@example({"response": "", "done": True, "eval_count": 1e308, "total_duration": 2**63})
@given(st.dictionaries(st.sampled_from(_FIELDS), _json | st.floats(allow_nan=False) | st.integers(0, 2**64 - 1)))
def test_any_object_is_an_event_or_an_engine_error(raw: dict[str, Any]) -> None:
    try:
        read = object_of(orjson.dumps(raw))
        if not read.get("done"):
            assert isinstance(delta_of(read), Delta)
            return
        done = end_of(read)[1]
        assert {type(done.prompt_tokens), type(done.completion_tokens), type(done.reason)} == {int, str}
        assert isinstance(done.total_ms, int | float)
    except EngineError:
        pass


@steady
@given(st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]))), st.data())
def test_lines_come_whole_however_they_are_cut(texts: list[str], data: st.DataObject) -> None:
    stream = "".join(f"{text}\n" for text in texts).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    splitter, lines = LineSplitter(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        lines += splitter.feed(stream[start:end])
    assert [line.decode() for line in lines] == texts
    assert splitter.rest() == b""


def test_a_line_without_its_end_is_the_rest() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"a\nb") == [b"a"]
    assert splitter.feed(b"c") == []
    assert splitter.rest() == b"bc"


def test_an_endless_line_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama_wire, "MAX_LINE_BYTES", 10)
    with pytest.raises(EngineProtocolError, match="a line of more than"):
        LineSplitter().feed(b"x" * 11)
    splitter = LineSplitter()
    splitter.feed(b"x" * 9)
    with pytest.raises(EngineProtocolError, match="a line of more than"):
        splitter.feed(b"xx\n")


def test_a_delta_of_generate_and_of_chat() -> None:
    raw = {"model": "m", "response": "a", "thinking": "b", "logprobs": [{"token": "a"}], "done": False, "new": 1}
    assert delta_of(raw) == Delta("a", "b", None, [{"token": "a"}], raw)
    call = {"function": {"name": "f"}}
    chat = {"message": {"role": "assistant", "content": "", "tool_calls": [call]}, "done": False}
    assert delta_of(chat) == Delta("", "", [call], None, chat)


@pytest.mark.parametrize(
    "raw",
    [
        {"status": "success"},
        {"message": "text"},
        {"response": 5},
        {"message": {"content": ["x"]}},
        {"response": "", "tool_calls": {"a": 1}},
    ],
)
def test_what_is_no_part_of_an_answer(raw: dict[str, Any]) -> None:
    with pytest.raises(EngineProtocolError):
        delta_of(raw)


def test_the_end_in_milliseconds_and_what_is_left_out_is_zero() -> None:
    raw = {"response": "", "done": True, "done_reason": "length", "eval_count": 3, "eval_duration": 2_500_000}
    assert end_of(raw) == (None, Done("length", 0, 3, 0.0, 0.0, 0.0, 2.5, raw))


def test_an_end_with_text_is_a_delta_and_an_end_without() -> None:
    raw = {"model": "m", "message": {"role": "assistant", "content": "six"}, "done": True, "eval_count": 1}
    delta, done = end_of(raw)
    assert delta is not None
    assert delta.text == "six"
    assert delta.raw == {"model": "m", "message": {"role": "assistant", "content": "six"}, "done": False}
    assert done.reason == "stop"
    assert done.raw["message"] == {"role": "assistant", "content": ""}
    assert done.raw["eval_count"] == 1


async def test_collect_joins_and_insists_on_the_end() -> None:
    async def events(*some: Event) -> Any:
        for event in some:
            yield event

    one = Delta("a", "x", [{"id": 1}], None, {})
    two = Delta("b", "y", None, [{"token": "b"}], {})
    end = Done("stop", 1, 2, 0, 0, 0, 0, {})
    whole = await collect(events(one, two, end))
    assert (whole.text, whole.thinking, whole.tool_calls, whole.logprobs, whole.done) == (
        "ab",
        "xy",
        [{"id": 1}],
        [{"token": "b"}],
        end,
    )
    with pytest.raises(StreamIncomplete):
        await collect(events(one, two))

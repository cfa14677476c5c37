"""OllamaClient against the fake node, over real sockets."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.fake_node import FakeModel, FakeNode

from deployment.errors import (
    ConfigurationError,
    EngineBusy,
    EngineCrashed,
    EngineError,
    EngineProtocolError,
    EngineRefused,
    EngineTimeout,
    EngineUnavailable,
    InvalidRequest,
    ModelMissing,
    StreamIncomplete,
)
from deployment.ollama_client import Delta, Done, Event, OllamaClient, Timeouts, collect

MODEL = "ramsey-model:v1.1"
REPLY = "This is ramsey-model:v1.1 – R(3,3) = 6, “naïve” ☂ 🙂 says 数学."
ABLE = FakeModel("able:v1", capabilities=("completion", "tools", "thinking", "insert"))
QUICK = Timeouts(connect=0.5, first_token=0.15, token=0.15, total=5.0)


@pytest.fixture
async def node() -> AsyncIterator[FakeNode]:
    async with FakeNode([MODEL, ABLE]) as node:
        yield node


@pytest.fixture
async def client(node: FakeNode) -> AsyncIterator[OllamaClient]:
    async with connected(node, Timeouts()) as client:
        yield client


@asynccontextmanager
async def connected(node: FakeNode, timeouts: Timeouts = QUICK) -> AsyncIterator[OllamaClient]:
    """A client that leaves no slot, task or connection behind."""
    before = asyncio.all_tasks()
    async with OllamaClient(node.url, MODEL, timeouts=timeouts) as client:
        yield client
        await until(lambda: not node.stats()["in_flight"])
    await until(lambda: not node.connections())
    await until(lambda: not asyncio.all_tasks() - before - {asyncio.current_task()})


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(2):
        while not true():
            await asyncio.sleep(0.002)


async def read(events: AsyncIterator[Event]) -> tuple[list[Event], EngineError | None]:
    got: list[Event] = []
    try:
        async for event in events:
            got.append(event)
    except EngineError as error:
        return got, error
    return got, None


# --- answers -------------------------------------------------------------------------------------------------


async def test_generate_whole(client: OllamaClient, node: FakeNode) -> None:
    answer = await client.generate("What is R(3,3)?", options={"num_predict": 5}, system=None)
    assert answer.text == "This is ramsey-model:v1.1 – R(3,3)"
    assert answer.done.reason == "length"
    assert (answer.done.prompt_tokens, answer.done.completion_tokens) == (3, 5)
    assert answer.done.total_ms > answer.done.completion_ms > 0
    body = node.bodies[-1][1]
    assert body == {"prompt": "What is R(3,3)?", "stream": False, "model": MODEL, "options": {"num_predict": 5}}


async def test_generate_as_events(client: OllamaClient) -> None:
    events, error = await read(await client.generate("hello", stream=True))
    assert error is None
    *deltas, done = events
    assert isinstance(done, Done)
    assert "".join(event.text for event in deltas if isinstance(event, Delta)) == REPLY
    assert len(deltas) == done.completion_tokens
    assert done.raw["context"] == [1, 2, 3]


async def test_chat_whole_and_as_events(client: OllamaClient) -> None:
    messages = [{"role": "user", "content": "hello"}]
    assert (await client.chat(messages)).text == REPLY
    assert (await collect(await client.chat(messages, stream=True))).text == REPLY


async def test_thinking_tools_and_logprobs(client: OllamaClient) -> None:
    for stream in (True, False):
        events = client.events(
            "/api/chat",
            {"model": "able:v1", "messages": [{"role": "user", "content": "x"}], "think": True, "stream": stream},
        )
        assert (await collect(events)).thinking == "Let me think."
    tools = [{"type": "function", "function": {"name": "ramsey_number"}}]
    answer = await client.chat([{"role": "user", "content": "x"}], model="able:v1", tools=tools)
    assert answer.tool_calls[0]["function"]["name"] == "ramsey_number"
    whole = await collect(await client.generate("x", stream=True, logprobs=True))
    assert "".join(one["token"] for one in whole.logprobs) == REPLY


@pytest.mark.parametrize("size", [1, 3, 50])
async def test_lines_split_within_characters(client: OllamaClient, node: FakeNode, size: int) -> None:
    node.fail("split", size=size)
    options = {"num_predict": 10}
    whole = await collect(await client.generate("x", stream=True, options=options))
    assert whole.text == "This is ramsey-model:v1.1 – R(3,3) = 6, “naïve” ☂ 🙂"


async def test_all_lines_in_one_chunk(client: OllamaClient, node: FakeNode) -> None:
    node.fail("join")
    events, error = await read(await client.generate("x", stream=True))
    assert error is None
    assert len(events) > 5


async def test_a_connection_serves_many_requests(client: OllamaClient, node: FakeNode) -> None:
    assert node.connections() == 0
    for _ in range(3):
        await client.generate("x")
        await collect(await client.generate("x", stream=True))
        await client.version()
    assert node.connections() == 1


async def test_a_body_that_ends_after_the_end_marker(client: OllamaClient, node: FakeNode) -> None:
    """The answer is whole with the marker; the connection is kept if the body ends soon after."""
    node.fail("late_end", seconds=0.02)
    for _ in range(3):
        events, error = await read(await client.generate("x", stream=True))
        assert error is None
        assert isinstance(events[-1], Done)
    assert node.connections() == 1
    node.heal()
    node.fail("late_end", seconds=30.0)
    async with asyncio.timeout(15):
        assert (await collect(await client.generate("x", stream=True))).text == REPLY


async def test_no_proxy_of_the_environment(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")
    async with connected(node) as client:
        assert await client.version() == "0.33.0"


async def test_no_timer_stays_behind(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, timers = asyncio.get_running_loop(), []
    call_at = loop.call_at

    def recorded(*args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        timers.append(call_at(*args, **kwargs))
        return timers[-1]

    monkeypatch.setattr(loop, "call_at", recorded)
    async with connected(node, Timeouts()) as client:
        await collect(await client.generate("x", stream=True))
        await client.generate("x")
        node.fail("cut")
        await read(await client.generate("x", stream=True))
        await client.version()
    assert len(timers) > 3
    assert all(timer.cancelled() or timer.when() < loop.time() + 5.1 for timer in timers)


async def test_many_at_once(client: OllamaClient, node: FakeNode) -> None:
    node.inference.token_delay_s = 0.0001
    answers = await asyncio.gather(*(client.generate("x") for _ in range(150)))
    assert all(answer.text == REPLY for answer in answers)
    assert node.stats()["peak_in_flight"][MODEL] == node.scheduler.slots
    assert node.connections() == 150


async def test_a_closed_client_opens_again(client: OllamaClient) -> None:
    await client.version()
    await client.close()
    await client.close()
    assert await client.version() == "0.33.0"


def test_construction_opens_nothing() -> None:
    assert OllamaClient().host == "http://localhost:11434"
    assert OllamaClient().model == "ramsey-model"
    assert OllamaClient("node:1/").host == "http://node:1"
    for host in ("ftp://x", "http://", "http://[::1"):
        with pytest.raises(ConfigurationError, match="no address"):
            OllamaClient(host)


async def test_what_json_cannot_hold_is_the_callers(client: OllamaClient) -> None:
    with pytest.raises(InvalidRequest, match="JSON"):
        await client.generate("\ud800")
    with pytest.raises(InvalidRequest):
        await client.generate("x", options={"seed": 2**80})


# --- faults --------------------------------------------------------------------------------------------------

BEFORE: list[tuple[dict[str, Any], type[EngineError], str]] = [
    ({"kind": "busy"}, EngineBusy, "busy"),
    ({"kind": "error", "text": "out of memory"}, EngineError, "out of memory"),
    ({"kind": "error", "text": '{"error":{"code":400,"message":"too long"}}', "status": 400}, EngineRefused, "long"),
    ({"kind": "error", "text": 'option "seed" must be of type integer'}, EngineRefused, "seed"),
    ({"kind": "crash"}, EngineCrashed, "unexpectedly stopped"),
    ({"kind": "missing"}, ModelMissing, "not found"),
    ({"kind": "lost_blob"}, ModelMissing, "weights"),
    ({"kind": "empty", "status": 500}, EngineError, "500"),
    ({"kind": "empty", "status": 403}, EngineProtocolError, "403"),
    ({"kind": "empty", "status": 307}, EngineProtocolError, "redirect"),
    ({"kind": "not_json"}, EngineProtocolError, "not JSON: '<html>"),
    ({"kind": "garbage"}, EngineProtocolError, "not HTTP"),
    ({"kind": "reset"}, EngineUnavailable, "broke|without an answer"),
    ({"kind": "close"}, EngineUnavailable, "without an answer"),
    ({"kind": "cut"}, StreamIncomplete, "end marker"),
    ({"kind": "repeat"}, StreamIncomplete, "end marker"),
]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("fault", "kind", "text"), BEFORE, ids=lambda value: getattr(value, "__name__", None))
async def test_faults_before_the_first_byte(
    client: OllamaClient, node: FakeNode, fault: dict[str, Any], kind: type[EngineError], text: str, stream: bool
) -> None:
    node.fail(**fault, times=1)
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "stream": stream}
    events, error = await read(client.events("/api/chat", body))
    assert type(error) is kind
    assert re.search(text, error.message)
    assert not [event for event in events if isinstance(event, Done)]
    assert stream or not events
    assert f"engine: {node.url}" in error.__notes__
    assert node.url not in error.message
    assert (await client.generate("x")).text == REPLY


WITHIN: list[tuple[str, type[EngineError], str]] = [
    ("cut", StreamIncomplete, "end marker"),
    ("half_line", StreamIncomplete, "end marker"),
    ("reset", StreamIncomplete, "connection broke"),
    ("close", StreamIncomplete, "connection broke"),
    ("error", EngineError, "told to fail"),
    ("crash", EngineCrashed, "unexpectedly stopped"),
    ("not_json", EngineProtocolError, "not JSON"),
]


@pytest.mark.parametrize("after", [1, 4])
@pytest.mark.parametrize(("fault", "kind", "text"), WITHIN)
async def test_faults_within_a_stream_come_after_the_tokens_before_them(
    client: OllamaClient, node: FakeNode, fault: str, kind: type[EngineError], text: str, after: int
) -> None:
    node.inference.token_delay_s = 0.001  # a reset overtakes bytes that were not read yet
    node.fail(fault, after=after, times=1)
    events, error = await read(await client.generate("x", stream=True))
    assert type(error) is kind
    assert re.search(text, error.message)
    assert len(events) == after
    assert all(isinstance(event, Delta) for event in events)


async def test_bad_framing_within_a_stream_ends_it_at_once(node: FakeNode) -> None:
    node.inference.token_delay_s = 0.001
    node.fail("garbage", after=2)
    async with connected(node, Timeouts()) as client:
        events, error = await read(await client.generate("x", stream=True))
    assert len(events) == 2
    assert type(error) is StreamIncomplete
    assert "not HTTP" in error.message


async def test_an_error_line_in_the_same_chunk_as_tokens(client: OllamaClient, node: FakeNode) -> None:
    """No delay: the tokens and the error arrive together, and the tokens are not lost."""
    node.fail("error", after=4)
    events, error = await read(await client.generate("x", stream=True))
    assert len(events) == 4
    assert type(error) is EngineError


async def test_a_line_too_long(client: OllamaClient, node: FakeNode) -> None:
    node.fail("long_line", after=1, size=9 * 1024 * 1024)
    events, error = await read(await client.generate("x", stream=True))
    assert len(events) == 1
    assert type(error) is EngineProtocolError
    assert "8 MB" in error.message


async def test_nobody_listens(client: OllamaClient, node: FakeNode) -> None:
    await node.refuse()
    with pytest.raises(EngineUnavailable, match="cannot be reached: Connection refused") as told:
        await client.generate("x")
    assert node.url.rpartition(":")[2] not in told.value.message  # callers need not know where nodes are
    with pytest.raises(EngineUnavailable, match="cannot be reached"):
        await client.tags()
    await node.accept()
    assert (await client.generate("x")).text == REPLY


async def test_no_such_host() -> None:
    async with OllamaClient("http://nowhere.invalid:1") as client:
        with pytest.raises(EngineUnavailable, match="cannot be reached"):
            await client.version()


async def test_requests_that_a_node_refuses(client: OllamaClient) -> None:
    with pytest.raises(ModelMissing):
        await client.generate("x", model="Ramsey-Model:v1.1")
    with pytest.raises(EngineRefused) as refused:
        await client.chat([{"role": "user", "content": "x"}], tools=[{"function": {"name": "f"}}])
    assert refused.value.status == 400
    with pytest.raises(EngineRefused, match="temperature"):
        await client.generate("x", options={"temperature": "hot"})
    with pytest.raises(EngineRefused, match="invalid format"):
        await client.generate("x", format="yaml")


# --- a connection that went stale ----------------------------------------------------------------------------


async def test_a_stale_connection_is_tried_again_on_another(client: OllamaClient, node: FakeNode) -> None:
    await client.version()
    node.fail("close", times=1)
    assert (await client.generate("x")).text == REPLY
    assert node.requests["/api/generate"] == 2


async def test_a_new_connection_that_fails_is_not_tried_again(client: OllamaClient, node: FakeNode) -> None:
    node.fail("close", times=1)
    with pytest.raises(EngineUnavailable):
        await client.generate("x")
    assert node.requests["/api/generate"] == 1


# --- time-outs -----------------------------------------------------------------------------------------------


async def test_no_first_byte(node: FakeNode) -> None:
    node.fail("hang")
    async with connected(node) as client:
        with pytest.raises(EngineTimeout, match=r"no first token within 0\.15 s"):
            await collect(await client.generate("x", stream=True))


async def test_a_head_but_no_first_token(node: FakeNode) -> None:
    node.fail("hang", after=0)
    async with connected(node) as client:
        with pytest.raises(EngineTimeout, match=r"no first token within 0\.15 s"):
            await collect(await client.generate("x", stream=True))


async def test_silence_between_tokens(node: FakeNode) -> None:
    node.fail("hang", after=3)
    async with connected(node) as client:
        events, error = await read(await client.generate("x", stream=True))
    assert len(events) == 3
    assert isinstance(error, EngineTimeout)
    assert "silent for 0.15 s between two tokens" in error.message


async def test_total_time(node: FakeNode) -> None:
    node.fail("slow", seconds=0.04)
    limits = Timeouts(first_token=1, token=1, total=0.2)
    async with connected(node, limits) as client:
        events, error = await read(await client.generate("x", stream=True))
        assert events
        assert isinstance(error, EngineTimeout)
        assert "longer than 0.2 s in all" in error.message
        with pytest.raises(EngineTimeout, match="in all"):
            await client.generate("x")


async def test_slow_tokens_within_their_time_are_fine(node: FakeNode) -> None:
    node.fail("slow", seconds=0.05)
    async with connected(node) as client:
        assert (await collect(await client.generate("x", stream=True))).text == REPLY


async def test_each_request_on_a_kept_connection_has_its_own_time(client: OllamaClient, node: FakeNode) -> None:
    body = {"model": MODEL, "prompt": "x", "stream": True}
    assert (await collect(client.events("/api/generate", body, timeouts=QUICK))).text == REPLY
    node.fail("hang", after=0, times=1)
    waiting = asyncio.create_task(read(client.events("/api/generate", body)))
    await asyncio.sleep(2 * QUICK.first_token)  # the time of the request before is over
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert (await client.generate("x")).text == REPLY
    node.fail("hang", after=0, times=1)
    _, error = await read(client.events("/api/generate", body, timeouts=QUICK))
    assert isinstance(error, EngineTimeout)


async def test_a_slow_consumer_is_not_the_nodes_fault(node: FakeNode) -> None:
    async with connected(node) as client:
        node.fail("slow", seconds=0.01)
        events = await client.generate("x", stream=True)
        async for event in events:
            if isinstance(event, Delta) and event.text == " 6,":
                await asyncio.sleep(2 * QUICK.token)
        assert isinstance(event, Done)


async def test_a_load_that_is_within_the_first_tokens_time() -> None:
    async with FakeNode([MODEL], load_s=0.2) as node, OllamaClient(node.url, MODEL) as client:
        done = await client.load(keep_alive=-1)
        assert done.reason == "load"
        assert done.load_ms >= 190
        assert (await client.ps())[0]["expires_at"].startswith("2318")


async def test_unary_calls_have_their_own_time(node: FakeNode) -> None:
    node.fail("hang", path="/api/tags")
    async with OllamaClient(node.url) as client:
        with pytest.raises(EngineTimeout, match=r"did not answer within 0\.1 s"):
            await client.request("GET", "/api/tags", timeout_s=0.1)


async def test_a_full_backlog_is_a_connect_time_out() -> None:
    """TEST-NET-1 goes nowhere: connecting neither succeeds nor is refused (or there is no route at all)."""
    limits = Timeouts(connect=0.1)
    async with OllamaClient("http://192.0.2.1:9", timeouts=limits) as client:
        with pytest.raises((EngineTimeout, EngineUnavailable), match=r"within 0\.1 s|cannot be reached"):
            await client.version()


# --- leaving -------------------------------------------------------------------------------------------------


async def test_aclose_aborts_the_connection(client: OllamaClient, node: FakeNode) -> None:
    node.inference.token_delay_s = 0.01
    events = client.events("/api/generate", {"model": MODEL, "prompt": "x", "stream": True})
    await anext(events)
    await events.aclose()
    await until(lambda: not node.stats()["in_flight"])
    assert node.stats()["cancelled"] == 1


async def test_a_cancelled_consumer_frees_the_slot(client: OllamaClient, node: FakeNode) -> None:
    node.fail("hang", after=2)
    tasks = [asyncio.create_task(read(await client.generate("x", stream=True))) for _ in range(20)]
    await until(lambda: node.stats()["in_flight"].get(MODEL) == node.scheduler.slots)
    for task in tasks:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks)
    await until(lambda: not node.stats()["in_flight"])


async def test_a_cancel_during_the_load_ends_the_load() -> None:
    async with FakeNode([MODEL], load_s=30) as node, OllamaClient(node.url, MODEL) as client:
        task = asyncio.create_task(client.generate("x"))
        await until(lambda: node.stats()["pending"] == 1)
        task.cancel()
        await until(lambda: node.stats()["pending"] == 0)
        assert node.stats()["load_aborts"] == 1


# --- models --------------------------------------------------------------------------------------------------


async def test_models(client: OllamaClient) -> None:
    assert [model["name"] for model in await client.tags()] == [MODEL, "able:v1"]
    assert (await client.show())["details"]["format"] == "gguf"
    await client.copy(MODEL, "second")
    assert len(await client.tags()) == 3
    await client.delete("second")
    assert len(await client.tags()) == 2
    with pytest.raises(ModelMissing):
        await client.delete("second")
    with pytest.raises(ModelMissing):
        await client.show("second")
    with pytest.raises(EngineProtocolError, match="404"):
        await client.request("GET", "/api/nothing")


async def test_load_and_unload(client: OllamaClient) -> None:
    assert await client.ps() == []
    await client.load()
    assert [model["name"] for model in await client.ps()] == [MODEL]
    await client.unload()
    assert await client.ps() == []


async def test_embed(client: OllamaClient) -> None:
    answer = await client.embed(["a", "b"], dimensions=4)
    assert [len(vector) for vector in answer["embeddings"]] == [4, 4]
    assert len((await client.embed("a"))["embeddings"]) == 1
    with pytest.raises(EngineRefused):
        await client.embed([1])  # type: ignore[list-item]


async def test_create_uploads_what_is_missing_and_verifies(
    client: OllamaClient, node: FakeNode, tmp_path: Path
) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF" * 1000)
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text("FROM m.gguf\nPARAMETER temperature 0\nSYSTEM Be kind.\nMESSAGE user Hi\nLICENSE MIT\n")
    steps: list[str] = []
    digest = await client.create("new:v1", modelfile, progress=steps.append)
    assert steps == ["uploading m.gguf", "creating new:v1"]
    path, body = next((path, body) for path, body in node.bodies if path == "/api/create")
    assert path == "/api/create"
    uploaded = body["files"].pop("m.gguf")
    assert await client.has_blob(uploaded)
    assert body == {
        "model": "new:v1",
        "stream": True,
        "files": {},
        "system": "Be kind.",
        "parameters": {"temperature": 0.0},
        "messages": [{"role": "user", "content": "Hi"}],
        "license": ["MIT"],
    }
    assert digest == next(model["digest"] for model in await client.tags() if model["name"] == "new:v1")
    await client.create("new:v2", modelfile)
    assert node.store.uploads == 1
    with pytest.raises(EngineRefused):
        await client.has_blob("sha256:short")


@pytest.mark.parametrize(("fault", "said"), [("hang", "stood still for 0.2 s"), ("cut", "before the model was made")])
async def test_a_create_that_moves_may_take_long_and_one_that_hangs_is_given_up(
    client: OllamaClient, node: FakeNode, tmp_path: Path, fault: str, said: str
) -> None:
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text(f"FROM {MODEL}\nSYSTEM Other.\n")
    node.store.step_s = 0.1  # three steps: longer than the silence in all
    await client.create("slow", modelfile, silence_s=0.2)
    node.fail(fault, path="/api/create", after=2)
    async with asyncio.timeout(10):
        with pytest.raises(EngineError, match=said):
            await client.create("other", modelfile, silence_s=0.2)
    node.heal()
    await client.create("other", modelfile)


async def test_create_from_a_model_and_its_failures(client: OllamaClient, node: FakeNode, tmp_path: Path) -> None:
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text(f"FROM {MODEL}\nSYSTEM Other.\n")
    await client.create("other", modelfile)
    assert (await client.show("other"))["system"] == "Other."
    node.fail("error", path="/api/create", text="no space left on device", times=1)
    with pytest.raises(EngineError, match="no space left"):
        await client.create("other", modelfile)
    node.fail("error", path="/api/create", text="no space left on device", after=1, times=1)
    with pytest.raises(EngineError, match="no space left"):
        await client.create("other", modelfile)
    (tmp_path / "folder").mkdir()
    modelfile.write_text("FROM ./folder\n")
    with pytest.raises(ConfigurationError, match="folder"):
        await client.create("other", modelfile)

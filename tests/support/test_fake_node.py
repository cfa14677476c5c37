"""The fake node keeps to Ollama's behaviour: what other tests rely on."""

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import ollama
import pytest
from tests.support.fake_node import FakeModel, FakeNode

MODEL = "ramsey-model:v1.1"


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def post(http: aiohttp.ClientSession, node: FakeNode, path: str, body: Any) -> tuple[int, str]:
    async with http.post(node.url + path, json=body) as answer:
        return answer.status, await answer.text()


async def until(true: Any) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.002)


async def test_the_official_client_is_at_home() -> None:
    able = FakeModel("able:v1", capabilities=("completion", "tools", "thinking"))
    async with FakeNode([MODEL, able]) as node:
        client = ollama.AsyncClient(node.url)
        assert "This is ramsey-model" in str((await client.generate(MODEL, "hello")).response)
        text = "".join([str(part.response) async for part in await client.generate(MODEL, "hello", stream=True)])
        assert text.endswith("数学.")
        messages = [{"role": "user", "content": "hello"}]
        thought = await client.chat("able:v1", messages, think=True)
        assert thought.message.thinking == "Let me think."
        assert [model.model for model in (await client.list()).models] == [MODEL, "able:v1"]
        assert [model.model for model in (await client.ps()).models] == [MODEL, "able:v1"]
        assert (await client.show(MODEL)).details is not None
        assert len((await client.embed(MODEL, ["a", "b"])).embeddings) == 2
        await client.create("new", from_=MODEL, system="s", parameters={"stop": ["x"]})
        assert (await client.show("new")).parameters == 'stop "x"'
        await client.copy("new", "newer")
        await client.delete("new")
        with pytest.raises(ollama.ResponseError, match="not found"):
            await client.generate("new", "x")
        with pytest.raises(ollama.ResponseError, match="does not support tools"):
            await client.chat(MODEL, messages, tools=[{"type": "function", "function": {"name": "f"}}])
        node.fail("error", after=2, text="broken")
        with pytest.raises(ollama.ResponseError, match="broken"):
            [part async for part in await client.generate(MODEL, "hello", stream=True)]
        await client._client.aclose()


async def test_one_load_for_all_and_a_reload_for_other_load_options(http: aiohttp.ClientSession) -> None:
    async with FakeNode([MODEL], load_s=0.02, slots=2, token_delay_s=0.001) as node:
        body = {"model": MODEL, "prompt": "x", "stream": False}
        await asyncio.gather(*(post(http, node, "/api/generate", body) for _ in range(8)))
        assert node.stats()["loads"] == 1
        assert node.stats()["peak_in_flight"] == {MODEL: 2}
        await post(http, node, "/api/generate", body | {"options": {"num_ctx": 64}})
        await post(http, node, "/api/generate", body | {"options": {"num_ctx": 64, "temperature": 0}})
        assert node.stats()["loads"] == 2
        await post(http, node, "/api/generate", body)
        assert node.stats()["loads"] == 3


async def test_tags_of_one_blob_share_a_runner_under_the_first_name(http: aiohttp.ClientSession) -> None:
    async with FakeNode(
        [FakeModel("a:v1", blob="sha256:" + "0" * 64), FakeModel("a:v2", blob="sha256:" + "0" * 64)]
    ) as node:
        for name in ("a:v2", "a:v1"):
            await post(http, node, "/api/generate", {"model": name, "prompt": "x"})
        assert node.stats()["loads"] == 1
        async with http.get(node.url + "/api/ps") as answer:
            assert [model["name"] for model in (await answer.json())["models"]] == ["a:v2"]


async def test_busy_only_where_a_load_is_waited_for(http: aiohttp.ClientSession) -> None:
    async with FakeNode([MODEL, "other:v1"], load_s=0.2, max_queue=1) as node:
        first = asyncio.create_task(post(http, node, "/api/generate", {"model": MODEL, "prompt": "x"}))
        await until(lambda: node.stats()["pending"])
        status, text = await post(http, node, "/api/generate", {"model": "other:v1", "prompt": "x"})
        assert status == 503
        assert json.loads(text)["error"] == "server busy, please try again.  maximum pending requests exceeded"
        assert (await first)[0] == 200


async def test_keep_alive(http: aiohttp.ClientSession) -> None:
    async with FakeNode([MODEL], keep_alive_s=0.05) as node:
        await post(http, node, "/api/generate", {"model": MODEL})
        assert len(node.scheduler.loaded()) == 1
        await until(lambda: not node.scheduler.loaded())
        await post(http, node, "/api/generate", {"model": MODEL, "keep_alive": "1h"})
        assert json.loads((await post(http, node, "/api/generate", {"model": MODEL, "keep_alive": 0}))[1]) == {
            "model": MODEL,
            "created_at": "2026-11-24T00:00:00.000000001Z",
            "response": "",
            "done": True,
            "done_reason": "unload",
        }
        assert not node.scheduler.loaded()
        assert (await post(http, node, "/api/generate", {"model": MODEL, "keep_alive": "300"}))[0] == 400


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/api/generate", {"model": MODEL.upper(), "prompt": "x"}, 404, "not found"),
        ("/api/chat", {"messages": []}, 400, "model is required"),
        ("/api/generate", {"model": MODEL, "prompt": "x", "options": {"temperature": "1"}}, 500, "float32"),
        ("/api/generate", {"model": MODEL, "prompt": "x", "format": "yaml"}, 500, "invalid format"),
        ("/api/generate", {"model": MODEL, "prompt": "x", "suffix": "y"}, 400, "insert"),
        ("/api/embed", {"model": MODEL, "input": 1}, 400, "invalid input type"),
        ("/api/create", {"model": "x"}, 400, "neither"),
        ("/api/nothing", {}, 404, "404 page not found"),
        ("/api/tags", {}, 405, "405"),
    ],
)
async def test_refusals(http: aiohttp.ClientSession, path: str, body: Any, status: int, text: str) -> None:
    async with FakeNode([MODEL]) as node:
        answered, said = await post(http, node, path, body)
        assert answered == status
        assert text in said


async def test_a_lost_blob_and_a_torn_manifest(http: aiohttp.ClientSession) -> None:
    async with FakeNode([MODEL]) as node:
        node.store.copy_window_s = 0.1
        copy = asyncio.create_task(post(http, node, "/api/copy", {"source": MODEL, "destination": "bot:prod"}))
        await until(lambda: node.requests["/api/copy"])
        async with http.get(node.url + "/api/tags") as answer:
            assert answer.status == 200
        assert (await post(http, node, "/api/show", {"model": "bot:prod"}))[0] == 500
        assert await copy == (200, "")
        node.store.blobs.clear()
        status, text = await post(http, node, "/api/generate", {"model": MODEL, "prompt": "x"})
        assert (status, json.loads(text)["error"]) == (400, f'"{MODEL}" does not support generate')


async def test_blobs_and_a_create_that_writes_the_file_anew(http: aiohttp.ClientSession) -> None:
    digest = "sha256:3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7"  # of b"data"
    async with FakeNode([]) as node:
        url = f"{node.url}/api/blobs/{digest}"
        assert (await http.head(url)).status == 404
        assert (await http.head(node.url + "/api/blobs/sha256:1")).status == 400
        assert (await http.post(url, data=b"other")).status == 400
        assert (await http.post(url, data=b"data")).status == 201
        assert (await http.post(url, data=b"data")).status == 200
        assert (await http.head(url)).status == 200
        status, lines = await post(http, node, "/api/create", {"model": "m", "files": {"m.gguf": digest}})
        assert status == 200
        assert json.loads(lines.splitlines()[-1]) == {"status": "success"}
        assert node.store.models["m:latest"].weights != digest


async def test_faults_by_chance_repeat_with_the_seed(http: aiohttp.ClientSession) -> None:
    async def struck(seed: int) -> list[int]:
        async with FakeNode([MODEL], seed=seed) as node:
            node.fail("busy", probability=0.5)
            body = {"model": MODEL, "prompt": "x", "stream": False}
            return [(await post(http, node, "/api/generate", body))[0] for _ in range(20)]

    assert await struck(1) == await struck(1) != await struck(2)
    assert set(await struck(1)) == {200, 503}


async def test_the_port_is_open_before_anything_answers(http: aiohttp.ClientSession) -> None:
    async with FakeNode([MODEL], open_delay_s=0.15) as node:
        with pytest.raises(TimeoutError):
            await http.get(node.url + "/api/version", timeout=aiohttp.ClientTimeout(total=0.03))
        async with http.get(node.url + "/api/version") as answer:
            assert answer.status == 200


async def test_refusing_and_listening_again_on_the_same_port(http: aiohttp.ClientSession) -> None:
    async with FakeNode([MODEL]) as node:
        node.fail("refuse", seconds=0.05, times=1)
        with contextlib.suppress(aiohttp.ClientError):
            await post(http, node, "/api/generate", {"model": MODEL, "prompt": "x"})
        with pytest.raises(aiohttp.ClientConnectorError):
            await http.get(node.url)
        await asyncio.sleep(0.1)
        async with http.get(node.url) as answer:
            assert await answer.text() == "Ollama is running"


async def process(*flags: str) -> tuple[asyncio.subprocess.Process, str]:
    run = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.fake_node", *flags, stdout=asyncio.subprocess.PIPE
    )
    assert run.stdout is not None
    return run, json.loads(await run.stdout.readline())["url"]


async def test_as_a_process_with_faults_over_http(http: aiohttp.ClientSession) -> None:
    run, url = await process("--model", "a:v1", "--model", "b:v1", "--tokens", "3", "--token-delay-s", "0.01")
    try:
        async with http.post(url + "/_fake/faults", json=[{"kind": "no such"}]) as answer:
            assert answer.status == 400
        async with http.post(url + "/_fake/faults", json=[{"kind": "busy", "times": 1}]) as answer:
            assert await answer.json() == {"active": 1}
        body = {"model": "b:v1", "prompt": "x", "stream": False}
        assert (await http.post(url + "/api/generate", json=body)).status == 503
        assert (await http.post(url + "/api/generate", json=body)).status == 200
        async with http.get(url + "/_fake/stats") as answer:
            assert (await answer.json())["requests"] == {"/api/generate": 2}
        await http.post(url + "/_fake/faults", json={"kind": "die", "after": 1})
        async with http.post(url + "/api/generate", json=body | {"stream": True}) as answer:
            with pytest.raises(aiohttp.ClientError):
                await answer.read()
        assert await run.wait() == 9
    finally:
        if run.returncode is None:
            run.kill()
            await run.wait()


async def test_sigterm_cuts_every_connection(http: aiohttp.ClientSession) -> None:
    run, url = await process("--token-delay-s", "0.05")
    async with http.post(url + "/api/generate", json={"model": MODEL, "prompt": "x"}) as answer:
        await answer.content.readany()
        run.send_signal(signal.SIGTERM)
        with pytest.raises(aiohttp.ClientError):
            await answer.read()
    assert await run.wait() == 0

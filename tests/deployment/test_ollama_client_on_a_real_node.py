"""OllamaClient with the real embedded node and the trained model, from Modelfile to answer."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.embedded_node import start_node

from deployment.errors import EngineRefused, ModelMissing
from deployment.ollama_client import Done, OllamaClient, collect

MODELFILE = Path(__file__).parents[2] / "models" / "ollama" / "Modelfile"
MODEL = "ramsey-model:v1.1"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with start_node(tmp_path_factory.mktemp("models"), num_parallel=2) as url:
        yield url


async def test_from_modelfile_to_answer(url: str) -> None:
    async with OllamaClient(url, MODEL) as client:
        assert await client.version()
        with pytest.raises(ModelMissing):
            await client.generate("What is R(3,3)?")

        digest = await client.create(MODEL, MODELFILE)
        assert digest == next(model["digest"] for model in await client.tags() if model["name"] == MODEL)
        assert await client.create(MODEL, MODELFILE) == digest
        shown = await client.show()
        assert "num_ctx" in shown["parameters"]
        assert "assistant for Ramsey theory" in shown["system"]

        done = await client.load(keep_alive=-1)
        assert done.reason == "load"
        assert [model["name"] for model in await client.ps()] == [MODEL]

        whole = await client.generate("What is R(3,3)?")
        assert "6" in whole.text
        assert whole.done.reason == "stop"
        assert whole.done.completion_tokens > 0
        assert whole.done.completion_ms > 0
        streamed = await collect(await client.generate("What is R(3,3)?", stream=True))
        assert streamed.text == whole.text
        chat = await client.chat([{"role": "user", "content": "What is R(3,3)?"}], options={"num_predict": 2})
        assert chat.done.reason == "length"

        events = await client.generate("What is R(3,3)?", stream=True, logprobs=True)
        tokens = [event async for event in events if not isinstance(event, Done)]
        assert all(event.logprobs for event in tokens if event.text)
        with pytest.raises(EngineRefused):
            await client.generate("x", options={"temperature": "hot"})
        with pytest.raises(EngineRefused, match="tools"):
            await client.chat([{"role": "user", "content": "x"}], tools=[{"type": "function", "function": {}}])

        await client.copy(MODEL, "second:v1")
        await client.delete("second:v1")
        with pytest.raises(ModelMissing):
            await client.show("second:v1")
        await client.unload()

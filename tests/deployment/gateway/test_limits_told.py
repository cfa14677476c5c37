"""What callers over a limit are told, in the words of their dialect."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.fake_node import FakeNode
from tests.support.held_clock import HeldClock
from tests.support.serving import serving

from deployment.access.limits import MemoryCounters

TALK = {"model": "ramsey-model", "messages": [{"role": "user", "content": "Hello"}]}
ASK = {"model": "ramsey-model", "prompt": "Hello"}


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/generate", {"prompt": "Hello"}, "max_tokens"),
        ("/chat", {"messages": TALK["messages"], "max_tokens": 5000}, "max_tokens"),
        ("/api/generate", ASK, "options.num_predict"),
        ("/api/chat", TALK | {"options": {"num_predict": -1}}, "options.num_predict"),
        ("/v1/chat/completions", TALK, "max_completion_tokens"),
        ("/v1/chat/completions", TALK | {"max_tokens": 5000}, "max_tokens"),
        ("/v1/chat/completions", TALK | {"max_completion_tokens": 5000}, "max_completion_tokens"),
        ("/v1/completions", ASK, "max_tokens"),
        ("/v1/responses", {"model": "ramsey-model", "input": "Hello"}, "max_output_tokens"),
    ],
)
async def test_the_field_to_lower_is_the_dialect_s_and_what_is_said_fits(
    tmp_path: Path, path: str, body: dict[str, Any], field: str
) -> None:
    limit = {"key": {"requests_per_minute": 100, "tokens_per_day": 300}}
    async with (
        FakeNode() as node,
        serving(node.url, data_dir=tmp_path, limits=limit) as (url, _),
        httpx.AsyncClient(base_url=url) as http,
    ):
        refused = await http.post(path, json=body)
        assert refused.headers["ratelimit-limit"] == "300", "that of what refuses"
        assert refused.status_code == 429, refused.text
        assert "retry-after" not in refused.headers, "it never fits"
        assert refused.headers["x-should-retry"] == "false"
        assert "is reached" not in refused.text, "nothing was used"
        assert "and 300 of 300 key tokens/day are left until 2" in refused.text
        _, _, rest = refused.text.partition(f"Set {field} to at most ")
        fits = int(rest.partition(".")[0])
        *above, name = field.split(".")
        lowered = {above[0]: {name: fits + 1}} if above else {name: fits + 1}
        assert (await http.post(path, json=body | lowered)).status_code == 429
        lowered = {above[0]: {name: fits}} if above else {name: fits}
        answer = await http.post(path, json=body | lowered)
        assert answer.status_code == 200, answer.text
        assert fits in [(sent.get("options") or {}).get("num_predict") for _, sent in node.bodies]


async def test_who_comes_back_when_it_is_told_to_is_let_in(tmp_path: Path) -> None:
    clock = HeldClock()
    limit = {"key": {"requests_per_minute": 1}}
    async with (
        FakeNode() as node,
        serving(node.url, data_dir=tmp_path, limits=limit) as (url, services),
        httpx.AsyncClient(base_url=url) as http,
    ):
        services.access.limits._counters = MemoryCounters(clock)
        assert (await http.post("/generate", json={"prompt": "Hello"})).status_code == 200
        clock.advance(0.75)
        refused = await http.post("/generate", json={"prompt": "Hello"})
        assert refused.json()["error"]["hint"].startswith("Try again in 65 s")
        assert "x-should-retry" not in refused.headers
        clock.advance(int(refused.headers["retry-after"]))
        assert (await http.post("/generate", json={"prompt": "Hello"})).status_code == 200


async def test_texts_that_are_too_long_to_embed(tmp_path: Path) -> None:
    limit = {"key": {"tokens_per_day": 300}}
    async with (
        FakeNode() as node,
        serving(node.url, data_dir=tmp_path, limits=limit) as (url, _),
        httpx.AsyncClient(base_url=url) as http,
    ):
        refused = await http.post("/v1/embeddings", json={"model": "ramsey-model", "input": ["x" * 200, "y" * 100]})
    assert refused.status_code == 429
    assert "Send less text at once." in refused.text


async def test_without_a_wish_no_more_than_the_context_is_taken(tmp_path: Path) -> None:
    limit = {"key": {"tokens_per_day": 100_000}}
    async with (
        FakeNode() as node,
        serving(node.url, data_dir=tmp_path, limits=limit, model={"max_tokens": 50_000}) as (url, services),
        httpx.AsyncClient(base_url=url) as http,
    ):
        traits = services.traffic.traits("ramsey-model:v1.1")
        assert traits is not None
        answer = await http.post("/v1/chat/completions", json=TALK)
        assert int(answer.headers["ratelimit-remaining"]) == 100_000 - (traits.context or 0)
        (promised,) = [sent["options"]["num_predict"] for path, sent in node.bodies if path == "/api/chat"]
        assert promised == (traits.context or 0) - len("Hello") - 3 * 16, "it is held to what was taken"

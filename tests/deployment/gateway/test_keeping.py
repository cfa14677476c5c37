"""Conversations through the gateway, kept where a tenant asked."""

import asyncio
import base64
from typing import Any

import aiohttp
import pytest
from tests.support.fake_node import FakeNode
from tests.support.serving import serving

from deployment.access import LOCAL_OPERATOR
from deployment.app import Services
from deployment.privacy.model import Conversation, Wish

KEY = {"id": "k1", "secret": base64.b64encode(bytes(range(32))).decode()}


async def exported(services: Services, subject: str) -> list[Conversation]:
    return (await services.privacy.service.export(LOCAL_OPERATOR, "default", subject))[0]


async def keep(services: Services) -> None:
    await services.privacy.service.set(LOCAL_OPERATOR, Wish("default", keep=True, days=30, redact=False))
    assert services.privacy.keeper.wants("default")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("path", "body", "headers", "subject"),
    [
        ("/generate", {"prompt": "Q?"}, {"X-Ramsey-Subject": "ada"}, "ada"),
        ("/generate", {"prompt": "Q?"}, {"X-Ramsey-Subject": "Zoë 数"}, "Zoë 数"),
        ("/chat", {"messages": [{"role": "user", "content": "Q?"}]}, {}, "anonymous"),
        ("/api/chat", {"model": "ramsey-model", "messages": [{"role": "user", "content": "Q?"}]}, {}, "anonymous"),
        (
            "/v1/chat/completions",
            {"model": "ramsey-model", "user": "bob", "messages": [{"role": "user", "content": "Q?"}]},
            {},
            "bob",
        ),
        ("/v1/completions", {"model": "ramsey-model", "user": "bob", "prompt": "Q?"}, {}, "bob"),
        ("/v1/responses", {"model": "ramsey-model", "user": "bob", "input": "Q?"}, {}, "bob"),
    ],
)
async def test_a_conversation_is_kept_under_its_subject(
    path: str, body: dict[str, Any], headers: dict[str, str], subject: str, stream: bool
) -> None:
    async with (
        FakeNode() as node,
        serving(node.url, privacy={"keys": [KEY]}) as (url, services),
        aiohttp.ClientSession() as http,
    ):
        await keep(services)
        async with http.post(f"{url}{path}", json=body | {"stream": stream}, headers=headers) as answer:
            assert answer.status == 200
            text = await answer.text()
            request_id = answer.headers["x-request-id"]
        (one,) = await exported(services, subject)
    assert one.request_id == request_id
    assert one.release == "ramsey-model:v1.1"
    assert "Q?" in str(one.content)
    assert one.content["answer"].split()[0] in text


async def test_nothing_is_kept_and_no_memory_taken_where_nobody_asked() -> None:
    async with (
        FakeNode() as node,
        serving(node.url, privacy={"keys": [KEY]}) as (url, services),
        aiohttp.ClientSession() as http,
    ):
        async with http.post(f"{url}/generate", json={"prompt": "Q?"}, headers={"X-Ramsey-Subject": "ada"}) as answer:
            assert answer.status == 200
        assert await exported(services, "ada") == []


async def test_a_failed_answer_is_not_kept() -> None:
    async with (
        FakeNode() as node,
        serving(node.url, privacy={"keys": [KEY]}) as (url, services),
        aiohttp.ClientSession() as http,
    ):
        await keep(services)
        async with http.post(f"{url}/generate", json={"prompt": "Q?", "model": "nobody"}) as answer:
            assert answer.status == 404
        assert await exported(services, "anonymous") == []


async def test_what_was_erased_is_gone_also_where_it_waited() -> None:
    async with (
        FakeNode() as node,
        serving(node.url, privacy={"keys": [KEY]}) as (url, services),
        aiohttp.ClientSession() as http,
    ):
        await keep(services)
        asks = (
            http.post(f"{url}/generate", json={"prompt": f"Q{n}?"}, headers={"X-Ramsey-Subject": "ada"})
            for n in range(5)
        )
        for answer in await asyncio.gather(*asks):
            assert answer.status == 200
            await answer.read()
        assert (await services.privacy.service.erase(LOCAL_OPERATOR, "default", "ada")).conversations == 5
        assert await exported(services, "ada") == []


async def test_a_vote_on_an_answer_that_nobody_keeps_is_erased_with_its_person() -> None:
    async with (
        FakeNode() as node,
        serving(node.url, privacy={"keys": [KEY]}) as (url, services),
        aiohttp.ClientSession() as http,
    ):
        for subject in ("ada", "bob"):
            headers = {"X-Ramsey-Subject": subject}
            async with http.post(f"{url}/generate", json={"prompt": "Q?"}, headers=headers) as answer:
                vote = {"request_id": answer.headers["x-request-id"], "score": "down", "comment": f"{subject} says no"}
            async with http.post(f"{url}/feedback", json=vote) as given:
                assert given.status == 201
        erased = await services.privacy.service.erase(LOCAL_OPERATOR, "default", "ada")
        assert (erased.conversations, erased.votes) == (0, 1)
        assert (await services.privacy.service.erase(LOCAL_OPERATOR, "default", "bob")).votes == 1

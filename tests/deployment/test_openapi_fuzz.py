"""Requests made from the OpenAPI document, good and bad: none may break the server."""

import asyncio
import warnings
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from tests.support.fake_node import FakeNode
from tests.support.serving import serving


async def test_no_request_breaks_the_server() -> None:
    async with FakeNode() as node, serving(node.url) as (url, services):
        await asyncio.to_thread(_fuzz, url)
        assert not len(services.gateway.exchanges)


def _fuzz(url: str) -> None:
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    tried = 0
    for operation in schema.get_all_operations():
        tried += 1
        _fuzz_operation(operation.ok(), url)  # type: ignore[union-attr]
    assert tried > 20
    assert httpx.get(f"{url}/health").status_code == 200


def _fuzz_operation(operation: Any, url: str) -> None:
    @settings(
        max_examples=15,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def run(case: Any) -> None:
        case.validate_response(case.call(base_url=url), checks=[not_a_server_error])

    run()


async def test_every_operation_has_a_name_of_its_own() -> None:
    async with FakeNode() as node, serving(node.url) as (url, _), httpx.AsyncClient() as http:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            document = (await http.get(f"{url}/openapi.json")).json()
    names = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(names) == len(set(names))


async def test_the_document_says_what_is_answered() -> None:
    async with FakeNode() as node, serving(node.url) as (url, _), httpx.AsyncClient() as http:
        document = (await http.get(f"{url}/openapi.json")).json()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            responses = operation["responses"]
            assert "422" not in responses, path
            assert path.startswith("/health") or {"401", "403"} <= set(responses), path
            schema = responses.get("200", {}).get("content", {}).get("application/json", {}).get("schema", {})
            assert schema.get("type") != "string", path

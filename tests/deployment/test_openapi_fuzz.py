"""Requests made from the OpenAPI document, good and bad: none may break the server."""

import asyncio
import warnings
from dataclasses import dataclass
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from tests.support.fake_node import FakeNode
from tests.support.serving import serving

from deployment.access import BUILT_IN_ROLES, LOCAL_OPERATOR, PUBLIC, AccessService, KeyWish, Permission, generate_key


@dataclass(frozen=True)
class Caller:
    """A key, and what it may do. `blind` is what must never be shown to it."""

    key: str
    permissions: frozenset[str]
    blind: tuple[str, ...] = ()


async def test_no_request_breaks_the_server() -> None:
    async with FakeNode() as node, serving(node.url) as (url, services):
        await asyncio.to_thread(_fuzz, url)
        assert not len(services.gateway.exchanges)


async def test_no_request_gets_a_key_further_than_its_permissions() -> None:
    admin = generate_key()
    keys = [{"name": "admin", "sha256": admin.sha256, "roles": ["admin"]}]
    async with FakeNode() as node, serving(node.url, profile="production", access={"keys": keys}) as (url, services):
        callers = await _limited(services.access.service)
        await asyncio.to_thread(_fuzz_limited, url, callers)
        assert not len(services.gateway.exchanges)
        left = {key.public_id: key for key in await services.access.service.keys(LOCAL_OPERATOR, limit=1000)}
        for caller in callers:
            for theirs in caller.blind:
                assert theirs not in left or left[theirs].revoked_at is None


async def _limited(service: AccessService) -> list[Caller]:
    """A viewer, a user who may infer alone, and one who may do all, but in another tenant."""
    await service.create_tenant(LOCAL_OPERATOR, "acme", "Acme")
    all_of_one = sorted(each.value for each in Permission if each is not Permission.TENANTS_ALL)
    await service.put_role(LOCAL_OPERATOR, "owner", tuple(all_of_one))
    secret = await service.create_key(LOCAL_OPERATOR, KeyWish("hidden-from-acme"))
    viewer = await service.create_key(LOCAL_OPERATOR, KeyWish("viewer", roles=("viewer",)))
    user = await service.create_key(LOCAL_OPERATOR, KeyWish("user", scopes=("inference",)))
    owner = await service.create_key(LOCAL_OPERATOR, KeyWish("owner", tenant="acme", roles=("owner",)))
    return [
        Caller(viewer.new.key, frozenset(each.value for each in BUILT_IN_ROLES["viewer"])),
        Caller(user.new.key, frozenset({"inference"})),
        Caller(owner.new.key, frozenset(all_of_one), ("hidden-from-acme", secret.record.public_id)),
    ]


def _fuzz(url: str) -> None:
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    tried = 0
    for operation in schema.get_all_operations():
        tried += 1
        _fuzz_operation(operation.ok(), url, 15)  # type: ignore[union-attr]
    assert tried > 20
    assert httpx.get(f"{url}/health").status_code == 200


def _fuzz_limited(url: str, callers: list[Caller]) -> None:
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    tried = 0
    for found in schema.get_all_operations():
        operation: Any = found.ok()  # type: ignore[union-attr]
        if not operation.path.startswith("/admin/"):
            continue
        tried += 1
        needed = operation.definition.raw["x-permission"]
        for caller in callers:
            _fuzz_operation(operation, url, 12 if needed in caller.permissions else 4, caller)
    assert tried > 40


def _fuzz_operation(operation: Any, url: str, examples: int, caller: Caller | None = None) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def run(case: Any) -> None:
        if caller is None:
            case.validate_response(case.call(base_url=url), checks=[not_a_server_error])
            return
        for header in ("X-API-Key", "api-key", "Authorization"):
            case.headers.pop(header, None)
        answer = case.call(base_url=url, headers={"Authorization": f"Bearer {caller.key}"})
        case.validate_response(answer, checks=[not_a_server_error])
        if operation.definition.raw["x-permission"] not in caller.permissions:
            assert 400 <= answer.status_code < 500, f"{operation.label}: {answer.text[:300]}"
        for theirs in caller.blind:
            assert theirs not in answer.text, operation.label

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
            assert operation["x-permission"] == PUBLIC or {"401", "403"} <= set(responses), path
            schema = responses.get("200", {}).get("content", {}).get("application/json", {}).get("schema", {})
            assert schema.get("type") != "string", path

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from deployment.access import LOCAL_OPERATOR, Access, KeyWish, Sizes
from deployment.clock import SystemClock
from deployment.database import Database
from deployment.errors import RamseyError
from deployment.settings import LimitSet, load

Ask = Callable[..., Awaitable[httpx.Response]]


@dataclass
class Server:
    access: Access
    app: FastAPI

    async def key(self, **wish: Any) -> str:
        return (await self.access.service.create_key(LOCAL_OPERATOR, KeyWish(**{"name": "test", **wish}))).new.key

    async def ask(self, key: str, method: str, path: str, json: Any = None) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, client=("203.0.113.9", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://llm.example") as client:
            return await client.request(method, path, json=json, headers={"authorization": f"Bearer {key}"})


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    database = Database(f"sqlite:///{tmp_path}/ramsey.db")
    access, app = Access(load(), database, SystemClock()), FastAPI()
    app.include_router(access.routes())

    @app.exception_handler(RamseyError)
    async def render(_request: Request, error: RamseyError) -> Response:
        return JSONResponse({"code": error.code, "message": error.message}, error.status)

    async with access.running():
        yield Server(access, app)
    await database.close()


async def test_a_key_is_made_used_rotated_and_revoked_over_http(server: Server) -> None:
    admin = await server.key(roles=("admin",))
    made = await server.ask(admin, "POST", "/admin/keys", {"name": "shop", "roles": ["admin"]})
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    key, public_id = made.json()["key"], made.json()["public_id"]
    shown = await server.ask(key, "GET", f"/admin/keys/{public_id}")
    assert shown.json()["state"] == "active"
    assert "key" not in shown.json()
    assert "sha256" not in shown.json()
    listed = await server.ask(key, "GET", "/admin/keys?limit=1000")
    assert {row["public_id"] for row in listed.json()} >= {public_id}
    assert key not in listed.text
    rotated = await server.ask(key, "POST", f"/admin/keys/{public_id}/rotate", {"overlap_seconds": 0})
    assert rotated.status_code == 201
    assert (await server.ask(key, "GET", "/admin/keys")).status_code == 401
    successor = rotated.json()
    revoked = await server.ask(admin, "POST", f"/admin/keys/{successor['public_id']}/revoke")
    assert revoked.json()["state"] == "revoked"
    assert (await server.ask(successor["key"], "GET", "/admin/keys")).status_code == 401


async def test_tenants_and_roles_over_http(server: Server) -> None:
    admin = await server.key(roles=("admin",))
    assert (await server.ask(admin, "POST", "/admin/tenants", {"id": "acme", "name": "Acme"})).status_code == 201
    assert (await server.ask(admin, "POST", "/admin/tenants", {"id": "acme", "name": "Acme"})).status_code == 409
    put = await server.ask(admin, "PUT", "/admin/roles/billing", {"permissions": ["usage:read"]})
    assert put.json() == {"name": "billing", "built_in": False, "permissions": ["usage:read"]}
    roles = (await server.ask(admin, "GET", "/admin/roles")).json()
    assert [role["name"] for role in roles] == ["viewer", "user", "operator", "admin", "billing"]
    assert (await server.ask(admin, "POST", "/admin/tenants/acme/disable")).status_code == 204
    tenants = {tenant["id"]: tenant for tenant in (await server.ask(admin, "GET", "/admin/tenants")).json()}
    assert tenants["acme"]["disabled_at"] is not None
    assert (await server.ask(admin, "POST", "/admin/tenants/acme/enable")).status_code == 204
    assert (await server.ask(admin, "DELETE", "/admin/roles/billing")).status_code == 204
    assert (await server.ask(admin, "DELETE", "/admin/roles/billing")).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": 5},
        {"name": "x", "surprise": 1},
        {"name": "x", "roles": "admin"},
        {"name": "x", "expires_at": "tomorrow"},
        {"name": "x", "scopes": ["root"]},
        {"name": "x", "networks": ["10.0.0.1/8"]},
        {"name": "x", "models": ["m"] * 101},
        {"name": "\x00"},
        [],
    ],
)
async def test_a_wrong_body_is_an_invalid_request(server: Server, body: Any) -> None:
    admin = await server.key(roles=("admin",))
    answer = await server.ask(admin, "POST", "/admin/keys", body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


async def test_a_key_a_tenant_and_a_model_get_limits_of_their_own(server: Server) -> None:
    admin, key = await server.key(roles=("admin",)), await server.key()
    headers = [(b"host", b"x"), (b"x-api-key", key.encode())]
    caller = server.access.authenticator.authenticate({"client": ("10.0.0.1", 1), "headers": headers})
    limits = server.access.limits
    assert (await limits.reserve(caller, "m", 5)).facts == ()
    for path, body in (
        (f"key/{caller.id}", {"requests_per_minute": 7, "max_output_tokens": 50}),
        ("tenant/default", {"concurrent": 3, "max_output_tokens": 60}),
        ("model/m", {"tokens_per_minute": 100, "max_prompt_chars": 1000}),
    ):
        put = await server.ask(admin, "PUT", f"/admin/limits/{path}", body)
        assert put.status_code == 200, put.text
    facts = (await limits.reserve(caller, "m", 5)).facts
    assert [(fact.name, fact.limit) for fact in facts] == [
        ("key requests/min", 7),
        ("tenant concurrent requests", 3),
        ("model tokens/min", 100),
    ]
    assert limits.sizes(caller, "m") == Sizes(1000, 50)
    assert limits.sizes(caller, "other") == Sizes(None, 50)
    listed = (await server.ask(admin, "GET", "/admin/limits")).json()
    assert [(row["scope"], row["subject"]) for row in listed] == [
        ("key", caller.id),
        ("model", "m"),
        ("tenant", "default"),
    ]
    assert (await server.ask(admin, "DELETE", "/admin/limits/model/m")).status_code == 204
    assert (await server.ask(admin, "DELETE", "/admin/limits/model/m")).status_code == 404
    assert len((await limits.reserve(caller, "m", 5)).facts) == 2


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("key/unknown", {}, 404),
        ("tenant/unknown", {}, 404),
        ("planet/earth", {}, 400),
        ("model/Bad Name", {}, 400),
        ("model/m", {"requests_per_minute": 0}, 400),
        ("model/m", {"requests_per_hour": 5}, 400),
    ],
)
async def test_limits_that_make_no_sense_are_refused(server: Server, path: str, body: Any, status: int) -> None:
    admin = await server.key(roles=("admin",))
    assert (await server.ask(admin, "PUT", f"/admin/limits/{path}", body)).status_code == status


async def test_a_tenant_limits_its_keys_and_not_itself(server: Server) -> None:
    service = server.access.service
    await service.create_tenant(LOCAL_OPERATOR, "acme", "Acme Ltd")
    await service.put_role(LOCAL_OPERATOR, "limiter", ("limits:read", "limits:write"))
    theirs = await server.key(tenant="acme", roles=("limiter",))
    own, foreign = theirs.split("_")[1], (await server.key()).split("_")[1]
    body = {"concurrent": 5}
    assert (await server.ask(theirs, "PUT", f"/admin/limits/key/{own}", body)).status_code == 200
    assert (await server.ask(theirs, "PUT", f"/admin/limits/key/{foreign}", body)).status_code == 404
    assert (await server.ask(theirs, "PUT", "/admin/limits/tenant/acme", body)).status_code == 403
    assert (await server.ask(theirs, "PUT", "/admin/limits/model/m", body)).status_code == 403
    await service.put_limits(LOCAL_OPERATOR, "key", foreign, LimitSet(concurrent=1))
    await service.put_limits(LOCAL_OPERATOR, "tenant", "default", LimitSet(concurrent=1))
    assert [row["subject"] for row in (await server.ask(theirs, "GET", "/admin/limits")).json()] == [own]

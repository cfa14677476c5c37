from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from deployment.access import LOCAL_OPERATOR, Access, KeyWish, Permission, declared_permission
from deployment.clock import SystemClock
from deployment.database import Database
from deployment.errors import RamseyError
from deployment.settings import load

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


def routes(server: Server) -> list[tuple[str, str, Permission | None]]:
    return [
        (method, getattr(route, "path", ""), declared_permission(route))
        for route in server.access.routes().routes
        for method in getattr(route, "methods", ())
    ]


async def test_every_route_declares_its_permission_and_keeps_out_who_lacks_it(server: Server) -> None:
    all_routes = routes(server)
    assert len(all_routes) == 12
    body = {"name": "x", "id": "x", "permissions": [], "overlap_seconds": 0}
    for method, path, permission in all_routes:
        assert permission is not None, f"{method} {path} declares no permission"
        others = [name for name in Permission if name is not permission]
        key = await server.key(roles=("admin",), scopes=tuple(others))
        answer = await server.ask(key, method, path, body if method in {"POST", "PUT"} else None)
        assert answer.status_code in {403, 400}, f"{method} {path}"
        nobody = await server.ask("wrong", method, path)
        assert nobody.status_code == 401, f"{method} {path}"


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

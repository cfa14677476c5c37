"""Every route of the whole application: what it declares, and that it asks for that before anything else."""

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import APIRouter, Depends, WebSocket
from fastapi.routing import APIRoute, APIWebSocketRoute, iter_route_contexts
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from tests.support.fake_node import FakeNode
from tests.support.serving import serving

from deployment.access import (
    KNOWN,
    LOCAL_OPERATOR,
    PUBLIC,
    Declared,
    KeyWish,
    Needs,
    Permission,
    declared,
    generate_key,
    known,
    needs,
    public,
)
from deployment.app import Services, create_app
from deployment.gateway.direct import DirectRoute
from deployment.gateway.routes import MANAGEMENT
from deployment.settings import load

# A route that anybody may ask is one more thing to defend: a new one is written down here too.
DELIBERATELY_PUBLIC = {
    "/",
    "/health",
    "/health/live",
    "/health/ready",
    "/docs",
    "/redoc",
    "/openapi.json",
    "/docs/assets/{name}",
    "/auth",
    "/auth/login",
    "/auth/callback",
    "/auth/logout",
}
# Whatever is right or wrong with a request, who may not make it hears of that alone.
REQUESTS: tuple[dict[str, Any], ...] = (
    {},
    {"json": {"prompt": "Hello", "messages": [{"role": "user", "content": "Hello"}], "input": "Hello", "name": "x"}},
    {"content": b"{", "headers": {"content-type": "application/json"}},
    {"content": b"a=1", "headers": {"content-type": "application/x-www-form-urlencoded"}},
    {"content": b"\x1f\x8b", "headers": {"content-type": "application/json", "content-encoding": "gzip"}},
    {"content": b"{" + b" " * 5000, "headers": {"content-type": "application/json"}},
)
MAX_BODY = 4096
loop = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Door:
    """One way into the application."""

    route: BaseRoute
    method: str
    path: str
    declared: Declared | None

    def paths(self) -> Iterator[str]:
        """Its path with what might be there, and with what cannot be."""
        for value in ("x", "%ff"):
            yield re.sub(r"\{[^}]*\}", value, self.path)


def doors(routes: list[BaseRoute]) -> list[Door]:
    found = []
    for each in iter_route_contexts(routes):
        for method in sorted(each.methods or {"GET"}):
            found.append(Door(each.original_route, method, each.path or "", declared(each.original_route)))
    return found


@dataclass(frozen=True)
class House:
    """A gateway in production, with keys that may do all but one thing, and one thing alone (in every tenant)."""

    http: httpx.AsyncClient
    services: Services
    node: FakeNode
    doors: list[Door]
    without: dict[Permission, str]
    only: dict[Permission, str]

    async def ask(self, door: Door, path: str, key: str | None, request: dict[str, Any]) -> httpx.Response:
        headers = dict(request.get("headers", {}))
        if key is not None:
            headers["authorization"] = f"Bearer {key}"
        if isinstance(door.route, APIWebSocketRoute):
            headers |= {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
            headers["sec-websocket-key"] = "dGhlIHNhbXBsZSBub25jZQ=="
        return await self.http.request(door.method, path, **{**request, "headers": headers})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house() -> AsyncIterator[House]:
    admin = generate_key()
    async with (
        FakeNode() as node,
        serving(
            node.url,
            profile="production",
            access={"keys": [{"name": "admin", "sha256": admin.sha256, "roles": ["admin"]}]},
            server={"max_body_bytes": MAX_BODY},
        ) as (url, services),
        httpx.AsyncClient(base_url=url, timeout=60) as http,
    ):
        service = services.access.service

        async def key(*scopes: Permission) -> str:
            wish = KeyWish("walk", roles=("admin",), scopes=scopes)
            return (await service.create_key(LOCAL_OPERATOR, wish)).new.key

        without = {one: await key(*(each for each in Permission if each is not one)) for one in Permission}
        only = {one: await key(one, Permission.TENANTS_ALL) for one in Permission}
        app = create_app(load(model={"modelfile": None}))
        yield House(http, services, node, doors(app.routes), without, only)


@loop
async def test_every_route_declares_who_may_use_it(house: House) -> None:
    assert len(house.doors) > 80
    undeclared = [f"{door.method} {door.path}" for door in house.doors if door.declared is None]
    assert not undeclared, f"No permission is declared by {undeclared}: see access/guard.py."
    assert {door.path for door in house.doors if door.declared == PUBLIC} == DELIBERATELY_PUBLIC


@loop
async def test_the_fast_way_goes_to_declared_routes_alone(house: House) -> None:
    direct = [door for door in house.doors if isinstance(door.route, DirectRoute)]
    assert len(direct) >= 12
    for door in direct:
        assert (door.method, "{" in door.path) == ("POST", False), door.path
        assert isinstance(door.declared, Permission), door.path


@loop
async def test_nobody_passes_a_door_without_what_it_asks(house: House) -> None:
    before = await _all_that_is_kept(house)
    for door in house.doors:
        if door.declared == PUBLIC:
            continue
        lacking = [(house.without[door.declared], 403)] if isinstance(door.declared, Permission) else []
        for key, status in ((None, 401), ("rk_wrong", 401), *lacking):
            for path in door.paths():
                for request in REQUESTS:
                    answer = await house.ask(door, path, key, request)
                    assert answer.status_code == status, f"{door.method} {path} {request}: {answer.text[:300]}"
    assert "Hello" not in str(house.node.bodies)
    assert await _all_that_is_kept(house) == before


async def _all_that_is_kept(house: House) -> Any:
    """What a route that was executed would have changed."""
    services = house.services
    acts = await services.access.service.audit(LOCAL_OPERATOR, limit=1000)
    return (
        [entry for entry in acts if entry.action != "access.refused"],
        dict(services.traffic.table),
        [(view.name, view.state, view.in_flight) for view in services.pool.view()],
    )


@loop
async def test_the_declared_permission_is_all_that_a_door_asks(house: House) -> None:
    management = set(MANAGEMENT)
    for door in house.doors:
        if door.declared == PUBLIC or (door.method, door.path) in management:
            continue
        key = house.only[door.declared if isinstance(door.declared, Permission) else Permission.INFERENCE]
        broken = {"content": b"{", "headers": {"content-type": "application/json"}}
        answer = await house.ask(door, next(door.paths()), key, broken if door.method in {"POST", "PUT"} else {})
        assert answer.status_code not in {401, 403, 405}, f"{door.method} {door.path}: {answer.text[:300]}"
        assert answer.status_code < 500, f"{door.method} {door.path}: {answer.text[:300]}"


@loop
async def test_public_doors_are_open(house: House) -> None:
    for door in house.doors:
        if door.declared == PUBLIC:
            path = door.path.replace("{name}", "swagger-ui.css")
            expected = 404 if path.startswith("/auth") else 200  # nobody signs in here
            assert (await house.ask(door, path, None, {})).status_code == expected, path


def test_what_declares_nothing_is_found() -> None:
    class Nobody:
        def authenticate(self, scope: Any) -> Any:
            raise AssertionError

    async def endpoint() -> None: ...

    async def talk(socket: WebSocket) -> None: ...

    need = Depends(Needs(Permission.INFERENCE, Nobody()))
    router = APIRouter()
    router.add_api_websocket_route("/open", talk)
    router.add_api_websocket_route("/closed", talk, dependencies=[need])
    found = {getattr(route, "path", ""): declared(route) for route in router.routes}
    assert found == {"/open": None, "/closed": Permission.INFERENCE}
    assert declared(APIRoute("/x", endpoint)) is None
    assert declared(APIRoute("/x", endpoint, dependencies=[need])) is Permission.INFERENCE
    assert declared(APIRoute("/x", endpoint, **needs(Permission.JOBS))) is Permission.JOBS
    assert declared(APIRoute("/x", endpoint, **public())) == PUBLIC
    assert declared(APIRoute("/x", endpoint, **known())) == KNOWN
    for other in (Route("/x", endpoint), WebSocketRoute("/x", endpoint), Mount("/x", routes=[])):
        assert declared(other) is None

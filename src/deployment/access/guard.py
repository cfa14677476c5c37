"""What a route declares that it needs, and the asking for it before anything else of a request is read."""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, Literal, Protocol

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.requests import HTTPConnection

from deployment.access.model import Principal
from deployment.access.permissions import Permission
from deployment.errors import InvalidRequest
from deployment.spelling import misspelt

PERMISSION = "x-permission"
"""Where a route, and the OpenAPI document, say what is needed."""
PUBLIC: Literal["public"] = "public"
"""Anybody may ask."""
KNOWN: Literal["known"] = "known"
"""Whoever is known may ask: the answer is about the caller."""
Declared = Permission | Literal["public", "known"]


class Callers(Protocol):
    """Who tells who calls."""

    def authenticate(self, scope: Mapping[str, Any]) -> Principal:
        """The principal of a connection. Raises Unauthenticated when there is none."""
        ...


class Needs:
    """A dependency: the caller, who must hold this permission. `declared` finds it on a route."""

    def __init__(self, permission: Permission, authenticator: Callers) -> None:
        self.permission = permission
        self._authenticator = authenticator

    async def __call__(self, connection: HTTPConnection) -> Principal:
        """The principal, with what the record says of a request. Raises Unauthenticated or Forbidden."""
        caller = self._authenticator.authenticate(connection.scope)
        caller.require(self.permission)
        source = connection.client.host if connection.client is not None else ""
        request_id = getattr(getattr(connection.state, "record", None), "request_id", "")
        return replace(caller, source=source[:64], request_id=request_id[:128])


def needs(permission: Permission) -> dict[str, Any]:
    """An argument of a route whose endpoint asks for the permission itself, for speed."""
    return {"openapi_extra": {PERMISSION: permission.value}}


def public() -> dict[str, Any]:
    """An argument of a route that anybody may ask."""
    return {"openapi_extra": {PERMISSION: PUBLIC}}


def known() -> dict[str, Any]:
    """An argument of a route that anybody may ask who is known."""
    return {"openapi_extra": {PERMISSION: KNOWN}}


def declared(route: object) -> Declared | None:
    """What a route says that it needs; None when it says nothing."""
    if isinstance(route, APIRoute | APIWebSocketRoute):
        for dependency in route.dependant.dependencies:
            if isinstance(dependency.call, Needs):
                return dependency.call.permission
    if isinstance(route, APIRoute) and (named := (route.openapi_extra or {}).get(PERMISSION)):
        return named if named in (PUBLIC, KNOWN) else Permission(named)
    return None


class AdminRoute(APIRoute):
    """A route that asks for its permission before it reads the body, and whose wrong input is our own error, so that
    one place renders them all."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, its validation errors translated."""
        handler = super().get_route_handler()
        needed = [each.call for each in self.dependant.dependencies if isinstance(each.call, Needs)]

        async def translated(request: Request) -> Response:
            for need in needed:
                await need(request)
            if self.body_field is not None:
                await request.body()  # FastAPI would turn what is wrong with its length or time into something else
            try:
                return await handler(request)
            except RequestValidationError as error:
                first = error.errors()[0]
                schema = self.body_field.field_info.annotation if self.body_field is not None else None
                given = error.body is not None
                if given and (found := misspelt(error.errors(), schema, {"body": error.body})):
                    where = ".".join(str(part) for part in found[0][1:])
                    raise InvalidRequest(f"{where}: there is no such field; did you mean {found[1]}?") from None
                if first["type"] == "json_invalid":
                    raise InvalidRequest(f"The body is not valid JSON: {first['ctx']['error']}.") from None
                where = ".".join(str(part) for part in first["loc"][1:]) or "body"
                raise InvalidRequest(
                    f"{where}: {first['msg'].removeprefix('Value error, ')}.", hint="See /docs."
                ) from None

        return translated

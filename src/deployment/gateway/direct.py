"""The way of inference requests past the framework, which costs more than all that the gateway does of its own."""

from collections.abc import Awaitable, Callable, Mapping

from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]
Around = Callable[[ASGIApp], ASGIApp]


class DirectRoute(APIRoute):
    """A route for POST whose path has no parameters, and whose endpoint takes the request alone."""


class Application(FastAPI):
    """FastAPI, but a POST to a direct route passes it by: its router, its middleware, its wrappers.

    Nothing but speed tells the two ways apart.
    """

    _direct: ASGIApp | None = None
    _paths: frozenset[str] = frozenset()

    def surround(self, around: Around) -> None:
        """Put `around` outermost on both ways, once every route is there."""
        self.add_middleware(around)
        endpoints: dict[str, Endpoint] = {
            str(each.path): route.endpoint
            for each in iter_route_contexts(self.routes)
            if isinstance(route := each.original_route, DirectRoute)
        }
        self._direct, self._paths = around(Direct(endpoints)), frozenset(endpoints)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What the server calls."""
        if self._direct and scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self._paths:
            await self._direct(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


class Direct:
    """The ASGI application of the direct endpoints."""

    def __init__(self, endpoints: Mapping[str, Endpoint]) -> None:
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        path = scope["path"]
        scope["state"]["record"].endpoint = path
        response = await self._endpoints[path](Request(scope, receive))
        await response(scope, receive, send)

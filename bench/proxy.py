"""The proxies that anybody writes first: FastAPI, one pooled client, nothing else. `create(client)` makes one.

Served for the bench as `bench.proxy:httpx_app`, `aiohttp_app` and `bare_app` (no framework at all, aiohttp), with
the upstream's address in BENCH_UPSTREAM.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import httpx
import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

UPSTREAM = os.environ.get("BENCH_UPSTREAM", "")
PATH = "/v1/chat/completions"


def _create(client: Any) -> FastAPI:
    """The application; `client` makes (open, whole answer, stream)."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with client() as app.state.client:
            yield

    return FastAPI(lifespan=lifespan)


def _with_httpx() -> FastAPI:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
    app = _create(lambda: httpx.AsyncClient(base_url=UPSTREAM, limits=limits, timeout=60, trust_env=False))

    @app.post(PATH)
    async def chat(body: dict[str, Any]) -> Response:
        client = app.state.client
        if not body.get("stream"):
            answer = await client.post(PATH, json=body)
            return JSONResponse(answer.json(), answer.status_code)

        async def relay() -> AsyncIterator[bytes]:
            async with client.stream("POST", PATH, json=body) as answer:
                async for chunk in answer.aiter_raw():
                    yield chunk

        return StreamingResponse(relay(), media_type="text/event-stream")

    return app


def _with_aiohttp() -> FastAPI:
    app = _create(_session)

    @app.post(PATH)
    async def chat(request: Request) -> Response:
        body = orjson.loads(await request.body())
        session = app.state.client
        if not body.get("stream"):
            async with session.post(UPSTREAM + PATH, data=orjson.dumps(body), headers=_JSON) as answer:
                whole = orjson.loads(await answer.read())
                return Response(orjson.dumps(whole), answer.status, media_type="application/json")

        async def relay() -> AsyncIterator[bytes]:
            async with session.post(UPSTREAM + PATH, data=orjson.dumps(body), headers=_JSON) as answer:
                async for chunk in answer.content.iter_any():
                    yield chunk

        return StreamingResponse(relay(), media_type="text/event-stream")

    return app


_JSON = {"Content-Type": "application/json"}


def _session() -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=0)
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())


class Bare:
    """ASGI without a framework."""

    session: aiohttp.ClientSession

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            self.session = _session()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self.session.close()
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = b""
        while True:
            part = await receive()
            body += part.get("body", b"")
            if not part.get("more_body"):
                break
        asked = orjson.loads(body) if body else {}
        async with self.session.post(UPSTREAM + PATH, data=orjson.dumps(asked), headers=_JSON) as answer:
            whole = orjson.dumps(orjson.loads(await answer.read()))
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(whole))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": whole})


httpx_app, aiohttp_app, bare_app = _with_httpx(), _with_aiohttp(), Bare()

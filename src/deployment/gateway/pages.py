"""The pages of the documents, `/docs` and `/redoc`: everything in them comes from here, none from a network outside."""

import base64
import hashlib
import re
from collections.abc import Mapping
from importlib.resources import files

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.requests import Request
from starlette.responses import Response

from deployment.access import public

_DOCUMENT, _ASSETS = "/openapi.json", "/docs/assets"
_INLINE = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
_POLICY = (
    "default-src 'none'; connect-src 'self'; script-src 'self' {scripts}; worker-src blob:; "
    "style-src 'self' 'unsafe-inline'; font-src 'self' data:; img-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


def add_pages(app: FastAPI) -> Mapping[str, bytes]:
    """Serve the pages; returns their content security policies by path.

    A page's own inline scripts may run, by their hashes, and no other. The scripts of Swagger UI and ReDoc come with
    the package fastapi-offline, so that a network without a way out shows them too.
    """
    icon = f"{_ASSETS}/favicon.png"
    swagger = get_swagger_ui_html(
        openapi_url=_DOCUMENT,
        title=f"{app.title} - Swagger UI",
        swagger_js_url=f"{_ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{_ASSETS}/swagger-ui.css",
        swagger_favicon_url=icon,
    )
    redoc = get_redoc_html(
        openapi_url=_DOCUMENT,
        title=f"{app.title} - ReDoc",
        redoc_js_url=f"{_ASSETS}/redoc.standalone.js",
        redoc_favicon_url=icon,
        with_google_fonts=False,
    )
    policies = {}
    for path, page in (("/docs", swagger), ("/redoc", redoc)):
        body = bytes(page.body)
        _serve(app, path, body)
        policies[path] = _policy(body)
    _serve_files(app)
    return policies


def _serve(app: FastAPI, path: str, body: bytes) -> None:
    @app.get(path, include_in_schema=False, **public())
    async def page() -> HTMLResponse:
        return HTMLResponse(body)


def _serve_files(app: FastAPI) -> None:
    assets = StaticFiles(directory=str(files("fastapi_offline") / "static"))

    @app.get(_DOCUMENT, include_in_schema=False, **public())
    async def described() -> JSONResponse:
        return JSONResponse(app.openapi())

    @app.get(_ASSETS + "/{name}", include_in_schema=False, **public())
    async def asset(request: Request, name: str) -> Response:
        return await assets.get_response(name, request.scope)


def _policy(page: bytes) -> bytes:
    hashes = (base64.b64encode(hashlib.sha256(script).digest()).decode() for script in _INLINE.findall(page))
    return _POLICY.format(scripts=" ".join(f"'sha256-{each}'" for each in hashes)).encode()

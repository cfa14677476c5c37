"""Headers that every answer carries."""

import base64
import hashlib
import re
from collections.abc import Mapping

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html, get_swagger_ui_oauth2_redirect_html

from deployment.settings import ServerSettings

Header = tuple[bytes, bytes]

CSP = b"content-security-policy"
NO_PAGE = b"default-src 'none'; frame-ancestors 'none'"
"""The policy of what is no page: nothing in it may load or run, nobody may frame it."""
_INLINE = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
_PAGE = (
    "default-src 'none'; connect-src 'self'; script-src https://cdn.jsdelivr.net {scripts}; worker-src blob:; "
    "style-src 'unsafe-inline' https://cdn.jsdelivr.net https://fonts.googleapis.com; "
    "font-src https://fonts.gstatic.com; img-src 'self' data: https://fastapi.tiangolo.com https://cdn.redoc.ly; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


def fixed_headers(settings: ServerSettings) -> tuple[Header, ...]:
    """The same for every answer."""
    headers = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
    if settings.tls_cert is not None and settings.hsts_seconds:
        headers.append((b"strict-transport-security", b"max-age=%d" % settings.hsts_seconds))
    return tuple(headers)


def page_policies(app: FastAPI) -> Mapping[str, bytes]:
    """The policies of FastAPI's pages, by path: their own inline scripts may run, by their hashes, and no other."""
    url, title = app.openapi_url or "", app.title
    redirect = app.swagger_ui_oauth2_redirect_url
    pages = {
        app.docs_url: get_swagger_ui_html(
            openapi_url=url, title=f"{title} - Swagger UI", oauth2_redirect_url=redirect
        ).body,
        app.redoc_url: get_redoc_html(openapi_url=url, title=f"{title} - ReDoc").body,
        redirect: get_swagger_ui_oauth2_redirect_html().body,
    }
    return {path: _policy(bytes(body)) for path, body in pages.items() if path}


def _policy(page: bytes) -> bytes:
    hashes = (base64.b64encode(hashlib.sha256(script).digest()).decode() for script in _INLINE.findall(page))
    return _PAGE.format(scripts=" ".join(f"'sha256-{each}'" for each in hashes)).encode()

"""Keeps web pages out: a node has no keys, so a page in a local browser must not reach it.

The rules are Ollama's. A foreign `Origin` is refused everywhere; a foreign `Host` (DNS rebinding) where the node
listens on loopback only.
"""

import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

_LOCAL_NAMES = {"", "localhost"}
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
_LOCAL_ORIGINS = {"localhost", "127.0.0.1", "0.0.0.0"}  # noqa: S104 - compared, not bound
_APP_SCHEMES = {"app", "file", "tauri", "vscode-webview", "vscode-file"}


class Guard:
    """Middleware that answers 403 with an empty body."""

    def __init__(self, app: ASGIApp, listens_on: str) -> None:
        self._app = app
        self._check_host = is_loopback(listens_on)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or refuse."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            refused = self._check_host and not allowed_host(headers.get("host", ""))
            if refused or not allowed_origin(headers.get("origin", "")):
                await Response(status_code=403)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address."""
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def allowed_host(header: str) -> bool:
    """Whether a Host header names this machine."""
    try:
        name = (urlsplit(f"//{header}").hostname or "").lower()
    except ValueError:
        return False
    address = _address(name)
    if address is not None:
        return address.is_loopback or address.is_private or address.is_unspecified
    return name in _LOCAL_NAMES or name.endswith(_LOCAL_SUFFIXES) or name == socket.gethostname().lower()


def allowed_origin(header: str) -> bool:
    """Whether an Origin header is absent or of a local page or app."""
    if not header:
        return True
    try:
        parts = urlsplit(header)
        return parts.scheme in _APP_SCHEMES or parts.hostname in _LOCAL_ORIGINS
    except ValueError:
        return False


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None

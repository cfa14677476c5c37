"""The gateway's own socket: uvicorn as we configure it."""

import errno
import resource
import socket
from functools import partial
from typing import Any

import structlog
import uvicorn
from starlette.types import ASGIApp

from deployment.errors import StartupError
from deployment.gateway.listener.protocol import BoundedProtocol, WireLimits
from deployment.gateway.listener.tls import Certificates
from deployment.settings import ServerSettings

_LAST_SECONDS = 5
"""Inferences have ended by then: the drain waits for them. What else is open, a long admin request, is cut."""
_KEEP_ALIVE_S = 75  # longer than a load balancer keeps its idle connections, so that it never meets a closed one
_BACKLOG = 2048
_LOOK_FOR_CERTIFICATE_S = 2
_OTHER_FILES = 512

_log = structlog.get_logger("listener")


def server_config(app: ASGIApp, settings: ServerSettings, **others: Any) -> uvicorn.Config:
    """How uvicorn runs `app`. Raises StartupError where the certificate cannot be used."""
    limits = WireLimits(settings.max_connections, settings.slow_head_seconds, settings.slow_client_seconds + 5)
    if (certificates := load_certificates(settings)) is not None:
        others["ssl_context_factory"] = lambda _config, _default: certificates.context
        others |= {"callback_notify": certificates.renew, "timeout_notify": _LOOK_FOR_CERTIFICATE_S}
    return uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_LAST_SECONDS,
        http=partial(BoundedProtocol, limits=limits),  # type: ignore[arg-type] # uvicorn only calls it
        ws="none",  # no route speaks it, and a connection that was handed over would have no bounds
        **others,
    )


def load_certificates(server: ServerSettings) -> Certificates | None:
    """What HTTPS is spoken with; None without. Raises StartupError where it cannot be used."""
    if server.tls_cert is None:
        return None
    password = server.tls_key_password
    return Certificates(server.tls_cert, server.tls_key, password.get_secret_value() if password else None)


def listen(server: ServerSettings) -> socket.socket:
    """The listening socket, with open files enough. Raises StartupError when the address cannot be had."""
    _allow_open_files(server.max_connections)
    return bind(server)


def bind(server: ServerSettings) -> socket.socket:
    """The listening socket alone. Raises StartupError, its cause beside it, when the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            server.host, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # A caller that reads nothing would keep its socket for ever: closing waits until the rest is taken.
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            milliseconds = int(server.slow_client_seconds * 1000)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        raise StartupError(
            f"Cannot listen on {server.host}:{server.port}: {error.strerror or error}.",
            hint="Stop what uses the port, or choose another: RAMSEY_SERVER__PORT=8001."
            if error.errno == errno.EADDRINUSE
            else "Correct RAMSEY_SERVER__HOST and RAMSEY_SERVER__PORT; a port below 1024 needs the right to it.",
        ) from error
    return listener


def _allow_open_files(connections: int) -> None:
    """Each connection is an open file, and may need another one to a node."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * connections + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        _log.warning("fewer open files are allowed than server.max_connections may need", allowed=allowed, need=wanted)

"""What a request's headers say about its caller: its credential, and whether it comes from this machine."""

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from deployment.errors import Unauthenticated

# OpenAI's and Ollama's clients send a bearer token, Anthropic's X-API-Key, Azure's api-key.
_KEY_HEADERS = frozenset({b"x-api-key", b"api-key"})
# A proxy on this machine would make the whole world look local.
_PROXY_HEADERS = frozenset(
    {b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip", b"via"}
)


def presented_credential(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The key or token that the headers carry, or None.

    Raises Unauthenticated for a scheme other than Bearer, and for two credentials that differ: which of them
    was meant is not ours to guess.
    """
    found: bytes | None = None
    for name, value in headers:
        if name == b"authorization":
            credential = _bearer(value)
        elif name in _KEY_HEADERS:
            credential = value.strip()
        else:
            continue
        if not credential:
            continue
        if found is not None and found != credential:
            raise Unauthenticated(
                "The request carries two different keys.",
                hint="Send one: Authorization: Bearer KEY, or X-API-Key: KEY.",
            )
        found = credential
    return found


def _bearer(value: bytes) -> bytes:
    scheme, _, credential = value.strip().partition(b" ")
    if scheme and scheme.lower() != b"bearer":
        raise Unauthenticated(
            "The Authorization header is not of the scheme Bearer.",
            hint="Send Authorization: Bearer KEY, or X-API-Key: KEY.",
        )
    return credential.strip()


def is_local(scope: Mapping[str, Any], origins: Collection[str] = ()) -> bool:
    """Whether a program on this machine sent the request, by its own will.

    Not so: a request that a proxy passed on, one that a browser sends for a foreign site (Origin, and where there is
    none Sec-Fetch-Site), and one whose Host is a name that somebody made point here (DNS rebinding). `origins` are
    sites that may.
    """
    client = scope.get("client")
    if not client or not is_loopback(client[0]) or scope.get("state", {}).get("proxied"):
        return False
    host_seen = origin_seen = foreign = False
    for name, value in scope["headers"]:
        if name == b"host":
            if not _is_loopback_site(f"//{value.decode('latin-1')}"):
                return False
            host_seen = True
        elif name == b"origin":
            origin = value.decode("latin-1")
            if origin not in origins and not _is_loopback_site(origin):
                return False
            origin_seen = True
        elif name == b"sec-fetch-site":
            foreign = value == b"cross-site"
        elif name in _PROXY_HEADERS:
            return False
    return host_seen and (origin_seen or not foreign)


def is_loopback(host: str) -> bool:
    """Whether an address or name always means this machine."""
    if host in {"127.0.0.1", "::1", "localhost"}:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.endswith(".localhost")
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _is_loopback_site(url: str) -> bool:
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return False
    return host is not None and is_loopback(host)

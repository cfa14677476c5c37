"""Who really calls, where proxies that we trust pass requests on."""

import ipaddress
import re
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from functools import lru_cache
from typing import Any

from deployment.errors import InvalidRequest

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

UNKNOWN = "unknown"
"""The client's address, where a proxy we trust does not tell it."""
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110's word for a run of such characters
_PAIR = re.compile(rf'[ \t]*({_TOKEN})=({_TOKEN}|"(?:[^"\\]|\\.)*")[ \t]*')
_SCHEMES = frozenset({"http", "https"})


class TrustedProxies:
    """Reads the headers in which proxies tell for whom they ask; only proxies in `networks` are believed."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._networks = tuple(networks)
        self._trusts = lru_cache(maxsize=1024)(self._is_trusted)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def resolve(self, scope: MutableMapping[str, Any]) -> None:
        """Write the real client (and scheme) into an ASGI scope whose connection comes from a trusted proxy.

        The client is the rightmost hop that is no trusted proxy. `scope["state"]["proxied"]` says that somebody
        stood between. Raises InvalidRequest for headers that are malformed, or that contradict each other: then a
        caller wrote one of them, and a proxy passed it on.
        """
        peer = scope.get("client")
        if not peer or not self._trusts(peer[0]):
            return
        scope["state"]["proxied"] = True
        lists: dict[bytes, list[bytes]] = {b"forwarded": [], b"x-forwarded-for": [], b"x-forwarded-proto": []}
        for name, value in scope["headers"]:
            if name in lists:
                lists[name].append(value)
        named = []
        if lists[b"forwarded"]:
            named.append(self._client(for_hops(b",".join(lists[b"forwarded"]).decode("latin-1"))))
        if lists[b"x-forwarded-for"]:
            named.append(self._client(b",".join(lists[b"x-forwarded-for"]).decode("latin-1").split(",")))
        if not named:
            return
        if len(set(named)) > 1:
            raise InvalidRequest(
                "Forwarded and X-Forwarded-For name different clients.",
                hint="Let the proxy remove the one that it does not write itself.",
            )
        scope["client"] = (named[0], 0)
        schemes = b",".join(lists[b"x-forwarded-proto"]).decode("latin-1").split(",")
        if (scheme := schemes[-1].strip().lower()) in _SCHEMES:
            scope["scheme"] = scheme

    def _client(self, hops: Sequence[str]) -> str:
        address: Address | None = None
        for hop in reversed(hops):
            address = address_of(hop)
            if address is None or not self._trusts(str(address)):
                break
        return str(address) if address is not None else UNKNOWN

    def _is_trusted(self, host: str) -> bool:
        address = address_of(host)
        return address is not None and any(address in network for network in self._networks)


def address_of(hop: str) -> Address | None:
    """The address of a hop: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`. None for anything else."""
    text = hop.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or (None if address.scope_id else address)
    return address


def for_hops(header: str) -> list[str]:
    """The `for` of every element of a `Forwarded` header (RFC 7239), the client's first; "" where one has none.

    Raises InvalidRequest when it is malformed.
    """
    return [dict(pairs).get("for", "") for pairs in _elements(header)]


def _elements(header: str) -> Iterator[list[tuple[str, str]]]:
    at, end, pairs = 0, len(header), []
    while True:
        found = _PAIR.match(header, at)
        if found is None:
            raise InvalidRequest("The header Forwarded is malformed.")
        value = found[2]
        pairs.append((found[1].lower(), re.sub(r"\\(.)", r"\1", value[1:-1]) if value[0] == '"' else value))
        at = found.end()
        if at < end and header[at] == ";":
            at += 1
            continue
        yield pairs
        if at == end:
            return
        if header[at] != ",":
            raise InvalidRequest("The header Forwarded is malformed.")
        at, pairs = at + 1, []

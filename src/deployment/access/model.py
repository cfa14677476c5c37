"""The nouns of access."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls: an API key, a token's subject, or an anonymous caller on this machine."""

    id: str
    name: str
    tenant: str
    roles: frozenset[str]
    scopes: frozenset[str]
    key_hash: str | None
    """Twelve hex digits that tell keys apart in logs; never the key itself."""
    anonymous: bool = False

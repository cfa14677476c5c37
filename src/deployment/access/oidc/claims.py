"""From a verified token's claims to a principal. Pure."""

import hashlib
from collections.abc import Mapping
from typing import Any

from deployment.access.directory import Directory
from deployment.access.model import Principal
from deployment.access.permissions import Permission
from deployment.errors import Forbidden
from deployment.settings import OidcProvider

_SCOPES = frozenset(permission.value for permission in Permission)


def principal_of(claims: Mapping[str, Any], provider: OidcProvider, directory: Directory) -> Principal:
    """Who the token speaks for. Raises Forbidden when its tenant is missing, unknown or disabled."""
    subject = str(claims["sub"])
    roles = _roles(claims, provider)
    scopes = frozenset(_words(claims.get("scope"))) & _SCOPES
    digest = hashlib.sha256(f"{provider.issuer} {subject}".encode()).hexdigest()
    return Principal(
        id=f"sub-{digest[:24]}",
        name=printable(subject),
        tenant=_tenant(claims, provider, directory),
        roles=roles,
        scopes=scopes,
        key_hash=digest[:12],
        permissions=directory.permitted(roles, scopes),
    )


def _tenant(claims: Mapping[str, Any], provider: OidcProvider, directory: Directory) -> str:
    tenant = provider.tenant if provider.tenant_claim is None else _claim(claims, provider.tenant_claim)
    if not isinstance(tenant, str) or not tenant:
        raise Forbidden(
            f"The token names no tenant: its claim {provider.tenant_claim} is missing.",
            hint="An administrator of the provider can add it.",
        )
    if tenant not in directory.tenants:
        raise Forbidden(f"There is no enabled tenant {printable(tenant)}.", hint="An administrator can create it.")
    return tenant


def _roles(claims: Mapping[str, Any], provider: OidcProvider) -> frozenset[str]:
    """Only mapped entries count: what `admin` means elsewhere is not what it means here."""
    entries = _words(_claim(claims, provider.roles_claim))
    return frozenset(provider.roles) | {provider.role_map[entry] for entry in entries if entry in provider.role_map}


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """A claim by its name, or by dots into objects; a name that holds dots itself (a URL) is found first."""
    if path in claims:
        return claims[path]
    value: Any = claims
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _words(value: Any) -> list[str]:
    if isinstance(value, str):
        return value.split()
    return [entry for entry in value if isinstance(entry, str)] if isinstance(value, list) else []


def has_claim(claims: Mapping[str, Any], path: str) -> bool:
    """Whether there is such a claim, by its name or by dots into objects."""
    return _claim(claims, path) is not None


def printable(text: str) -> str:
    """For logs and pages: short, and nothing that could begin a new line."""
    return "".join(character if character.isprintable() else "?" for character in text)[:64]

"""What may be done, and which role may do it.

A key's scopes narrow its roles: it may do what one of its roles allows and, where it names scopes, one of
them names too. Both speak the same words.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType


class Permission(StrEnum):
    """One thing that may be allowed; also the name of a scope."""

    INFERENCE = "inference"
    EMBEDDINGS = "embeddings"
    JOBS = "jobs"
    MODELS_READ = "models:read"
    USAGE_READ = "usage:read"
    METRICS_READ = "metrics:read"
    NODES_READ = "nodes:read"
    NODES_WRITE = "nodes:write"
    RELEASES_READ = "releases:read"
    RELEASES_WRITE = "releases:write"
    BACKUPS_READ = "backups:read"
    BACKUPS_WRITE = "backups:write"
    KEYS_READ = "keys:read"
    KEYS_WRITE = "keys:write"
    LIMITS_READ = "limits:read"
    LIMITS_WRITE = "limits:write"
    ROLES_READ = "roles:read"
    ROLES_WRITE = "roles:write"
    TENANTS_READ = "tenants:read"
    TENANTS_WRITE = "tenants:write"
    TENANTS_ALL = "tenants:all"
    """Act in tenants other than one's own."""
    AUDIT_READ = "audit:read"
    PRIVACY_READ = "privacy:read"
    """See what is kept of a person."""
    PRIVACY_WRITE = "privacy:write"
    """Say what is kept, and erase it."""


_P = Permission
_VIEWER = frozenset({_P.MODELS_READ, _P.USAGE_READ, _P.METRICS_READ, _P.NODES_READ, _P.RELEASES_READ})
_USER = frozenset({_P.INFERENCE, _P.EMBEDDINGS, _P.JOBS, _P.MODELS_READ})
_OPERATOR = _VIEWER | _USER | {_P.NODES_WRITE, _P.RELEASES_WRITE, _P.BACKUPS_READ, _P.BACKUPS_WRITE}

BUILT_IN_ROLES: Mapping[str, frozenset[Permission]] = MappingProxyType(
    {"viewer": _VIEWER, "user": _USER, "operator": _OPERATOR, "admin": frozenset(_P)}
)


def permitted(
    roles: Iterable[str], scopes: Iterable[str], own_roles: Mapping[str, frozenset[Permission]]
) -> frozenset[Permission]:
    """What these roles allow, narrowed to the scopes where there are any.

    A role that no longer exists allows nothing. A built-in role cannot be redefined.
    """
    allowed: frozenset[Permission] = frozenset().union(
        *(BUILT_IN_ROLES.get(role) or own_roles.get(role, frozenset()) for role in roles)
    )
    narrowed = frozenset(scopes)
    return frozenset(item for item in allowed if item in narrowed) if narrowed else allowed

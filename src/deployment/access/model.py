"""The nouns of access."""

from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network

from deployment.access.permissions import Permission
from deployment.errors import Forbidden
from deployment.settings import LimitSet

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls: an API key, a token's subject, or an anonymous caller on this machine."""

    id: str
    name: str
    tenant: str
    roles: frozenset[str]
    scopes: frozenset[str]
    """What narrows the roles; empty narrows nothing."""
    key_hash: str | None
    """Twelve hex digits that tell keys apart in logs; never the key itself."""
    anonymous: bool = False
    permissions: frozenset[Permission] = frozenset()
    """What the roles allow within the scopes."""
    models: frozenset[str] = frozenset()
    """The models that may be asked; empty for all."""
    source: str = ""
    request_id: str = ""
    """Address and id of an administrative request, for the record; empty elsewhere."""

    def require(self, permission: Permission) -> None:
        """Raise Forbidden, naming what is missing, unless this may be done."""
        if permission in self.permissions:
            return
        if self.anonymous:
            raise Forbidden(
                f"Without a key, nobody has the permission {permission.value}.",
                hint="Send the key of an administrator. On the gateway's machine, `ramsey keys create --name NAME "
                "--role admin` makes one.",
            )
        raise Forbidden(
            f"{self.name} lacks the permission {permission.value}.",
            hint="An administrator can give the key a role and scopes that hold it.",
        )

    def require_model(self, model: str) -> None:
        """Raise Forbidden unless this model may be asked. `model` is the logical name, without a tag."""
        if self.models and model not in self.models:
            raise Forbidden(
                f"This key may not use the model {model}.",
                hint=f"It may use: {', '.join(sorted(self.models))}.",
            )


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """An API key as it is kept; the key itself is not in it."""

    public_id: str
    sha256: str
    name: str
    tenant: str
    roles: tuple[str, ...]
    scopes: tuple[str, ...]
    models: tuple[str, ...]
    networks: tuple[str, ...]
    """Networks (CIDR) that it may call from; empty for everywhere."""
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    replaced_by: str | None
    """Public id of the key that took its place when it was rotated."""
    last_used_at: datetime | None

    def state(self, now: datetime) -> str:
        """`active`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer or team whose keys, usage and jobs are its own."""

    id: str
    name: str
    created_at: datetime
    disabled_at: datetime | None


@dataclass(frozen=True, slots=True)
class Role:
    """A role of the installation's own."""

    name: str
    permissions: frozenset[Permission]


@dataclass(frozen=True, slots=True)
class StoredLimits:
    """Limits of one key, tenant or model, in place of the settings' ones."""

    scope: str
    """`key`, `tenant` or `model`."""
    subject: str
    """The key's public id, the tenant's id, or the model's name."""
    limits: LimitSet


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A browser that somebody signed in with. The cookie that stands for it is not in it."""

    sha256: str
    """Of the cookie's value, which is known to the browser alone."""
    principal_id: str
    name: str
    """The subject, as the provider names it."""
    shown_name: str
    """What the person is called on pages."""
    tenant: str
    roles: tuple[str, ...]
    scopes: tuple[str, ...]
    issuer: str
    created_at: datetime
    seen_at: datetime
    """When it was last used, to about a minute."""
    expires_at: datetime
    ended_at: datetime | None

    @property
    def public_id(self) -> str:
        """What it is called where anybody may read it."""
        return f"se_{self.sha256[:16]}"


@dataclass(frozen=True, slots=True)
class Changes:
    """What is new since a version of the stored state: changed keys and sessions, and all tenants, roles and limits."""

    version: int
    keys: tuple[KeyRecord, ...]
    tenants: tuple[Tenant, ...]
    roles: tuple[Role, ...]
    limits: tuple[StoredLimits, ...]
    sessions: tuple[SessionRecord, ...] = ()

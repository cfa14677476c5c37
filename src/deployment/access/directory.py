"""Who is known, in memory: what the authenticator reads. Changes come in from the store."""

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from deployment.access.model import Changes, KeyRecord, Network, Principal
from deployment.access.permissions import Permission, permitted
from deployment.access.session_book import SessionBook
from deployment.settings import LimitSet


@dataclass(frozen=True, slots=True)
class Entry:
    """A key as the authenticator needs it."""

    principal: Principal
    expires_at: datetime | None = None
    networks: tuple[Network, ...] = ()
    public_id: str | None = None
    """Of a stored key, whose use is noted; None for a key from the settings."""


class Directory:
    """Every stored key that may call, by the SHA-256 of the key. Expired ones stay and are told so.

    Records are held for all keys, entries only for those that call: there may be 100,000 keys.
    """

    def __init__(self) -> None:
        self.version = -1
        self.true_at: float | None = None
        """When the store last confirmed all this (monotonic seconds); None before the first time."""
        self._records: dict[str, KeyRecord] = {}
        self._entries: dict[str, Entry] = {}
        self._own_roles: Mapping[str, frozenset[Permission]] = {}
        self._disabled: frozenset[str] = frozenset()
        self.tenants: frozenset[str] = frozenset({"default"})
        """The enabled ones."""
        self.limits: Mapping[tuple[str, str], LimitSet] = {}
        """Stored limits by scope and subject."""
        self.sessions = SessionBook()

    def find(self, sha256: str) -> Entry | None:
        """The key of this hash, unless it was revoked or its tenant disabled."""
        entry = self._entries.get(sha256)
        if entry is None:
            record = self._records.get(sha256)
            if record is not None and record.tenant not in self._disabled:
                entry = self._entries[sha256] = self._entry(record)
        return entry

    @property
    def keys(self) -> Iterable[KeyRecord]:
        """Every stored key that was not revoked."""
        return self._records.values()

    def apply(self, changes: Changes) -> None:
        """Take in what is new. Once this returns, a revoked key is nobody."""
        anew = changes.version < self.version
        own_roles = {role.name: role.permissions for role in changes.roles}
        disabled = frozenset(tenant.id for tenant in changes.tenants if tenant.disabled_at is not None)
        self.tenants = frozenset(tenant.id for tenant in changes.tenants) - disabled
        if anew:
            self._records.clear()
            self._entries.clear()
        if own_roles != self._own_roles or disabled != self._disabled:
            self._own_roles, self._disabled = own_roles, disabled
            self._entries.clear()
        for key in changes.keys:
            self._entries.pop(key.sha256, None)
            if key.revoked_at is None:
                self._records[key.sha256] = key
            else:
                self._records.pop(key.sha256, None)
        self.limits = {(stored.scope, stored.subject): stored.limits for stored in changes.limits}
        self.sessions.apply(changes.sessions, anew=anew)
        self.version = changes.version

    def permitted(self, roles: Iterable[str], scopes: Iterable[str]) -> frozenset[Permission]:
        """What roles allow within scopes, own roles included."""
        return permitted(roles, scopes, self._own_roles)

    def _entry(self, key: KeyRecord) -> Entry:
        principal = Principal(
            id=key.public_id,
            name=key.name,
            tenant=key.tenant,
            roles=frozenset(key.roles),
            scopes=frozenset(key.scopes),
            key_hash=key.sha256[:12],
            permissions=self.permitted(key.roles, key.scopes),
            models=frozenset(key.models),
        )
        networks = tuple(ipaddress.ip_network(network) for network in key.networks)
        return Entry(principal, key.expires_at, networks, key.public_id)

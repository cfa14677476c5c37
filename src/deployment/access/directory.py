"""Who is known, in memory: what the authenticator reads. Changes come in from the store."""

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from deployment.access.model import Changes, KeyRecord, Network, Principal
from deployment.access.permissions import Permission, permitted


@dataclass(frozen=True, slots=True)
class Entry:
    """A key as the authenticator needs it."""

    principal: Principal
    expires_at: datetime | None = None
    networks: tuple[Network, ...] = ()
    public_id: str | None = None
    """Of a stored key, whose use is noted; None for a key from the settings."""


class Directory:
    """Every stored key that may call, by the SHA-256 of the key. Expired ones stay and are told so."""

    def __init__(self) -> None:
        self.version = -1
        self.true_at: float | None = None
        """When the store last confirmed all this (monotonic seconds); None before the first time."""
        self._records: dict[str, KeyRecord] = {}
        self._entries: dict[str, Entry] = {}
        self._shared: dict[tuple[str, ...], frozenset[str]] = {}
        self._allowed: dict[tuple[tuple[str, ...], tuple[str, ...]], frozenset[Permission]] = {}
        self._own_roles: Mapping[str, frozenset[Permission]] = {}
        self._disabled: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, sha256: str) -> Entry | None:
        """The key of this hash, unless it was revoked or its tenant disabled."""
        return self._entries.get(sha256)

    def apply(self, changes: Changes) -> None:
        """Take in what is new. Once this returns, a revoked key is nobody."""
        own_roles = {role.name: role.permissions for role in changes.roles}
        disabled = frozenset(tenant.id for tenant in changes.tenants if tenant.disabled_at is not None)
        if changes.version < self.version:
            self._records.clear()
            self._entries.clear()
        self._records.update((key.sha256, key) for key in changes.keys if key.revoked_at is None)
        for key in changes.keys:
            if key.revoked_at is not None:
                self._records.pop(key.sha256, None)
                self._entries.pop(key.sha256, None)
        all_again = own_roles != self._own_roles or disabled != self._disabled
        if all_again:
            self._own_roles, self._disabled = own_roles, disabled
            self._allowed.clear()
            self._entries.clear()
        self._add(self._records.values() if all_again else changes.keys)
        self.version = changes.version

    def _add(self, keys: Iterable[KeyRecord]) -> None:
        for key in keys:
            if key.revoked_at is None and key.tenant not in self._disabled:
                self._entries[key.sha256] = self._entry(key)

    def _entry(self, key: KeyRecord) -> Entry:
        within = (key.roles, key.scopes)
        if within not in self._allowed:
            self._allowed[within] = permitted(key.roles, key.scopes, self._own_roles)
        principal = Principal(
            id=key.public_id,
            name=key.name,
            tenant=key.tenant,
            roles=self._set(key.roles),
            scopes=self._set(key.scopes),
            key_hash=key.sha256[:12],
            permissions=self._allowed[within],
            models=self._set(key.models),
        )
        networks = tuple(ipaddress.ip_network(network) for network in key.networks)
        return Entry(principal, key.expires_at, networks, key.public_id)

    def _set(self, names: tuple[str, ...]) -> frozenset[str]:
        """One set for all keys that have the same names: there may be 100,000 keys."""
        return self._shared.setdefault(names, frozenset(names))

"""Tells who calls, from memory alone: it is on the path of every request."""

import ipaddress
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from deployment.access.credentials import is_local, presented_credential
from deployment.access.directory import Directory, Entry
from deployment.access.keys import PREFIX, key_sha256, public_id_of
from deployment.access.model import Principal
from deployment.access.permissions import permitted
from deployment.clock import Clock
from deployment.errors import DatabaseUnavailable, Forbidden, RamseyError, Unauthenticated
from deployment.settings import AccessSettings, ApiKey, Profile

_ANONYMOUS = Principal(
    id="anonymous",
    name="anonymous",
    tenant="default",
    roles=frozenset({"operator"}),
    scopes=frozenset(),
    key_hash=None,
    anonymous=True,
    permissions=permitted({"operator"}, (), {}),
)
# Clients that insist on a key are given one of these by the documents of local engines: it means "no key".
_PLACEHOLDERS = frozenset({b"ollama", b"EMPTY", b"none", b"unused", b"not-needed", b"sk-no-key-required"})
# A key made by another process in the last moments may not be here yet, when the directory is this old.
_FRESH_S = 5.0


class Tokens(Protocol):
    """Who verifies tokens of other issuers."""

    def principal(self, token: bytes, sha256: str) -> Principal:
        """The subject of a valid token. Raises Unauthenticated otherwise."""
        ...


class SignedIn(Protocol):
    """Who knows the browsers that somebody signed in with."""

    def shown(self, scope: Mapping[str, Any]) -> bytes | None:
        """What the request shows as its session, whatever it is worth."""
        ...

    def principal(self, scope: Mapping[str, Any]) -> Principal | None:
        """Who is signed in, if anybody is. Raises Forbidden for a request that may be forged."""
        ...


class Authenticator:
    """Finds the principal behind a request; holds no connection and never waits."""

    def __init__(
        self,
        settings: AccessSettings,
        profile: Profile,
        clock: Clock,
        directory: Directory | None = None,
        tokens: Tokens | None = None,
        browsers: SignedIn | None = None,
    ) -> None:
        self._tokens = tokens
        self._browsers = browsers
        self._origins = frozenset(settings.cors_origins)
        self._anonymous_allowed = profile is Profile.DEVELOPMENT
        self._offline_s = settings.offline_seconds
        self._clock = clock
        self._configured = {key.sha256: Entry(_principal(key)) for key in settings.keys}
        self._directory = Directory() if directory is None else directory
        self._used: dict[str, datetime] = {}

    def authenticate(self, scope: Mapping[str, Any]) -> Principal:
        """The principal of an ASGI connection (http or websocket).

        Raises Unauthenticated, with what to do, when there is none; Forbidden for a key outside its networks;
        DatabaseUnavailable when the database has been away for too long to go on trusting what is known.
        Who was found is left in the connection's state as `caller`, for the record.
        """
        principal = self._find(scope)
        if (state := scope.get("state")) is not None:
            state["caller"] = principal
        return principal

    def _find(self, scope: Mapping[str, Any]) -> Principal:
        credential = presented_credential(scope["headers"])
        sha256 = ""
        if credential is not None:
            sha256 = key_sha256(credential)
            entry = self._configured.get(sha256)
            if entry is not None:
                return entry.principal
            entry = self._directory.find(sha256)
            if entry is not None:
                return self._stored(entry, scope)
        if credential is None or credential in _PLACEHOLDERS:
            return self._signed_in(scope) or self._anonymous(scope)
        if self._tokens is not None and credential.count(b".") == 2:
            return self._tokens.principal(credential, sha256)
        raise self._unknown(credential)

    def take_used(self) -> Mapping[str, datetime]:
        """When stored keys were last used since the last call, by public id."""
        used, self._used = self._used, {}
        return used

    def _stored(self, entry: Entry, scope: Mapping[str, Any]) -> Principal:
        if self._age() > self._offline_s:
            raise _cannot_check()
        now = self._clock.now()
        if entry.expires_at is not None and entry.expires_at <= now:
            raise Unauthenticated(
                f"The key {entry.public_id} expired at {entry.expires_at:%Y-%m-%d %H:%M:%S} UTC.",
                hint="Use its successor, or ask for a new key.",
            )
        if entry.networks and not _within(entry, scope):
            raise Forbidden(
                f"The key {entry.public_id} may not be used from this address.",
                hint="An administrator can change the networks that it may call from.",
            )
        if entry.public_id is not None:
            self._used[entry.public_id] = now
        return entry.principal

    def _signed_in(self, scope: Mapping[str, Any]) -> Principal | None:
        if self._browsers is None or not self._browsers.shown(scope):
            return None
        if self._age() > self._offline_s:
            raise _cannot_check()
        principal = self._browsers.principal(scope)
        if principal is None and self._age() > _FRESH_S:
            raise _cannot_check()
        return principal

    def _anonymous(self, scope: Mapping[str, Any]) -> Principal:
        if self._anonymous_allowed and is_local(scope, self._origins):
            return _ANONYMOUS
        hint = "Send Authorization: Bearer KEY, or X-API-Key: KEY. `ramsey keys create --name NAME` makes one."
        if self._anonymous_allowed:
            hint += " Only programs on this machine that call it as localhost, without a proxy, need none."
        if self._browsers is not None and self._browsers.shown(scope):
            raise Unauthenticated("The session is over.", hint="Sign in again: /auth/login.")
        if self._browsers is not None:
            hint += " With a browser, sign in: /auth/login."
        raise Unauthenticated("A key is needed.", hint=hint)

    def _unknown(self, credential: bytes) -> RamseyError:
        text = credential.decode("latin-1")
        if text.startswith(PREFIX) and public_id_of(text) is None:
            return Unauthenticated(
                "The key is misspelt or cut: its checksum does not fit.", hint="Copy the whole key again."
            )
        if text.startswith(PREFIX) and self._age() > _FRESH_S:
            return _cannot_check()
        return Unauthenticated(
            "The key is not known here.",
            hint="Check that it belongs to this server and was not revoked; "
            "`ramsey keys create --name NAME` makes a new one.",
        )

    def _age(self) -> float:
        """Seconds since the directory was last known to be true; 0 where nothing is stored."""
        true_at = self._directory.true_at
        return 0.0 if true_at is None else self._clock.monotonic() - true_at


def _principal(key: ApiKey) -> Principal:
    short = key.sha256[:12]
    return Principal(
        id=f"key-{short}",
        name=key.name,
        tenant=key.tenant,
        roles=frozenset(key.roles),
        scopes=frozenset(),
        key_hash=short,
        permissions=permitted(key.roles, (), {}),
    )


def _within(entry: Entry, scope: Mapping[str, Any]) -> bool:
    client = scope.get("client")
    try:
        address = ipaddress.ip_address(client[0]) if client else None
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address is not None and any(address in network for network in entry.networks)


def _cannot_check() -> DatabaseUnavailable:
    return DatabaseUnavailable(
        "Keys and sessions cannot be checked: the database has not been reached for a while.",
        hint="This is not the key's fault. Try again soon.",
        retry_after_s=5.0,
    )

"""Tells who calls, from memory alone: it is on the path of every request."""

from collections.abc import Iterable, Mapping
from typing import Any

from deployment.access.credentials import is_local, presented_credential
from deployment.access.keys import PREFIX, key_sha256, public_id_of
from deployment.access.model import Principal
from deployment.clock import Clock
from deployment.errors import Unauthenticated
from deployment.settings import AccessSettings, ApiKey, Profile

_SCOPES = frozenset({"inference", "embeddings"})
_ANONYMOUS = Principal(
    id="anonymous",
    name="anonymous",
    tenant="default",
    roles=frozenset({"user"}),
    scopes=_SCOPES,
    key_hash=None,
    anonymous=True,
)
# Clients that insist on a key are given one of these by the documents of local engines: it means "no key".
_PLACEHOLDERS = frozenset({b"ollama", b"EMPTY", b"none", b"unused", b"not-needed", b"sk-no-key-required"})


class Authenticator:
    """Finds the principal behind a request; holds no connection and never waits."""

    def __init__(self, settings: AccessSettings, profile: Profile, clock: Clock) -> None:
        self._origins = frozenset(settings.cors_origins)
        self._anonymous_allowed = profile is Profile.DEVELOPMENT
        self._clock = clock
        self._by_hash = {key.sha256: _principal(key) for key in settings.keys}

    def authenticate(self, scope: Mapping[str, Any]) -> Principal:
        """The principal of an ASGI connection (http or websocket).

        Raises Unauthenticated, with what to do, when there is none.
        """
        headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
        credential = presented_credential(headers)
        if credential is not None:
            known = self._by_hash.get(key_sha256(credential))
            if known is not None:
                return known
        if credential is None or credential in _PLACEHOLDERS:
            return self._anonymous(scope)
        raise _unknown(credential)

    def _anonymous(self, scope: Mapping[str, Any]) -> Principal:
        if self._anonymous_allowed and is_local(scope, self._origins):
            return _ANONYMOUS
        hint = "Send Authorization: Bearer KEY, or X-API-Key: KEY. `ramsey keys create --name NAME` makes one."
        if self._anonymous_allowed:
            hint += " Only programs on this machine that call it as localhost, without a proxy, need none."
        raise Unauthenticated("A key is needed.", hint=hint)


def _principal(key: ApiKey) -> Principal:
    short = key.sha256[:12]
    return Principal(
        id=f"key-{short}",
        name=key.name,
        tenant=key.tenant,
        roles=frozenset({"user"}),
        scopes=_SCOPES,
        key_hash=short,
    )


def _unknown(credential: bytes) -> Unauthenticated:
    text = credential.decode("latin-1")
    if text.startswith(PREFIX) and public_id_of(text) is None:
        return Unauthenticated(
            "The key is misspelt or cut: its checksum does not fit.", hint="Copy the whole key again."
        )
    return Unauthenticated(
        "The key is not known here.",
        hint="Check that it belongs to this server and was not revoked; "
        "`ramsey keys create --name NAME` makes a new one.",
    )

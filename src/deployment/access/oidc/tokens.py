"""Verifies access tokens, from memory: the providers' keys are here already."""

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from deployment.access.directory import Directory
from deployment.access.model import Principal
from deployment.access.oidc.claims import principal_of
from deployment.access.oidc.provider import Provider
from deployment.clock import Clock
from deployment.errors import ProviderUnavailable, Unauthenticated

if TYPE_CHECKING:
    from joserfc.jwk import Key

_MOST_BYTES = 16 * 1024
_MOST_REMEMBERED = 10_000
_ID_TOKEN_CLAIMS = frozenset({"at_hash", "c_hash", "s_hash"})  # by OpenID Connect; no access token has them
_OTHER_TOKENS = frozenset({"ID", "Refresh", "Offline", "Logout"})  # as Keycloak says it in the claims
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})


@dataclass(frozen=True, slots=True)
class _Known:
    """A token that was verified, and what that stood on."""

    principal: Principal
    expires_at: float
    provider: Provider
    keys: Mapping[str | None, "Key"]
    version: int


class TokenAuthenticator:
    """Tokens to principals; a token that was verified is remembered until it expires."""

    def __init__(
        self, providers: Iterable[Provider], directory: Directory, clock: Clock, offline_s: float = 3600.0
    ) -> None:
        self._providers = {one.settings.issuer: one for one in providers if one.settings.audience}
        self._directory = directory
        self._clock = clock
        self._offline_s = offline_s
        self._known: dict[str, _Known] = {}

    def principal(self, token: bytes, sha256: str) -> Principal:
        """The subject of a valid token; `sha256` is the token's, which is all that is remembered of it.

        Raises Unauthenticated with the reason, Forbidden when its tenant may not call, and
        ProviderUnavailable when its signing key is not here yet or could not be checked for too long.
        """
        now = self._clock.now().timestamp()
        known = self._known.get(sha256)
        if (
            known is not None
            and now < known.expires_at
            and known.keys is known.provider.keys
            and known.version == self._directory.version
        ):
            self._check_age(known.provider)
            return known.principal
        return self._verify(token, sha256, now)

    def _verify(self, token: bytes, sha256: str, now: float) -> Principal:
        header, unverified = _parts(token)
        issuer = unverified.get("iss")
        provider = self._providers.get(issuer) if isinstance(issuer, str) else None
        if provider is None:
            raise _refused("it comes from an issuer that is not accepted here")
        _check_header(header, provider)
        keys = provider.keys
        claims = _claims(token, self._key(header, provider), header["alg"], provider, now)
        if _ID_TOKEN_CLAIMS & claims.keys() or claims.get("typ") in _OTHER_TOKENS:
            raise _refused("it is not an access token")
        principal = principal_of(claims, provider.settings, self._directory)
        if len(self._known) >= _MOST_REMEMBERED:
            self._known.clear()
        expires_at = claims["exp"] + provider.settings.leeway_seconds
        self._known[sha256] = _Known(principal, expires_at, provider, keys, self._directory.version)
        return principal

    def _key(self, header: Mapping[str, Any], provider: Provider) -> "Key":
        """The key that the header names, or the only one there is where it names none."""
        self._check_age(provider)
        key = _published(header, provider)
        if key is None and provider.want_new_keys():
            raise _not_here(provider)
        if key is None:
            raise _refused("its issuer publishes no such signing key")
        return key

    def _check_age(self, provider: Provider) -> None:
        fetched_at = provider.fetched_at
        if fetched_at is None or self._clock.monotonic() - fetched_at > self._offline_s:
            provider.want_new_keys()
            raise _not_here(provider)


def id_token_claims(token: bytes, provider: Provider, client_id: str, now: float) -> dict[str, Any]:
    """The claims of a token that says to a client who signed in. Raises Unauthenticated with the reason."""
    header, _ = _parts(token)
    _check_header(header, provider)
    key = _published(header, provider)
    if key is None:
        raise _refused("its issuer publishes no such signing key")
    claims = _claims(token, key, header["alg"], provider, now, (client_id,))
    alone = claims["aud"] in (client_id, [client_id])
    if claims.get("azp", client_id if alone else None) != client_id:
        raise _refused("it is for another client")
    return claims


def _published(header: Mapping[str, Any], provider: Provider) -> "Key | None":
    key_id = header.get("kid")
    if key_id is None and len(provider.keys) == 1:
        return next(iter(provider.keys.values()))
    return provider.keys.get(key_id) if isinstance(key_id, str) else None


def _parts(token: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims, not verified yet."""
    if len(token) > _MOST_BYTES:
        raise _refused("it is too long")
    try:
        header, claims = (
            orjson.loads(base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))) for part in token.split(b".")[:2]
        )
    except (binascii.Error, ValueError):
        raise _refused("it cannot be read") from None
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise _refused("it cannot be read")
    return header, claims


def _check_header(header: Mapping[str, Any], provider: Provider) -> None:
    """Before any key is touched: `none` and HMAC are in no list, so a public key can't be used as a secret."""
    if header.get("alg") not in provider.settings.algorithms:
        raise _refused("its signing algorithm is not accepted here")
    if "crit" in header:
        raise _refused("it demands an extension that is not known here")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise _refused("it is not an access token")


def _claims(
    token: bytes, key: "Key", algorithm: str, provider: Provider, now: float, audience: Sequence[str] = ()
) -> dict[str, Any]:
    """The claims, once the signature and they themselves are right."""
    from joserfc import jwt
    from joserfc.errors import ExpiredTokenError, JoseError

    registry = jwt.JWTClaimsRegistry(
        now=int(now),
        leeway=provider.settings.leeway_seconds,
        iss={"essential": True, "value": provider.settings.issuer},
        aud={"essential": True, "values": list(audience or provider.settings.audience)},
        exp={"essential": True},
        sub={"essential": True},
    )
    try:
        claims = jwt.decode(token, key, algorithms=[algorithm]).claims
        registry.validate(claims)
    except ExpiredTokenError:
        raise _refused("it has expired", hint="Get a new one from its issuer.") from None
    except (JoseError, ValueError, TypeError) as error:
        reason = getattr(error, "description", None) or "its signature is not right"
        raise _refused(str(reason).rstrip(".")) from None
    return claims


def _refused(why: str, hint: str = "Get an access token for this service from its issuer.") -> Unauthenticated:
    return Unauthenticated(f"The token is refused: {why}.", hint=hint)


def _not_here(provider: Provider) -> ProviderUnavailable:
    return ProviderUnavailable(
        f"The signing keys of {provider.settings.issuer} are not here yet.", hint="Try again.", retry_after_s=1.0
    )

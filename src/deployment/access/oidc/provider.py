"""What a provider publishes, its keys and addresses, kept up to date in the background."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
import structlog

from deployment.background import going_on
from deployment.clock import Clock
from deployment.errors import ProviderUnavailable
from deployment.settings import OidcProvider

if TYPE_CHECKING:
    from joserfc.jwk import Key

EVERY_S = 300.0
_AGAIN_S = 10.0
"""Shortest time between two looks: tokens with made-up key ids must not make us a nuisance."""
_TIMEOUT = aiohttp.ClientTimeout(total=5)
_MOST_BYTES = 1024 * 1024


class Unusable(Exception):
    """What the provider answered cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where people sign in and out, and where we ask about them. None for what the provider does not have."""

    authorization: str | None
    token: str | None
    userinfo: str | None
    end_session: str | None
    basic: bool
    """Whether a client's secret goes into the header Authorization, as by default, or into the form."""
    names_itself: bool
    """Whether its answers to browsers say who it is (`iss`)."""


class Provider:
    """One provider. `keys` are its public signing keys by their id (None for one without)."""

    def __init__(self, settings: OidcProvider, clock: Clock) -> None:
        self.settings = settings
        self.keys: Mapping[str | None, Key] = {}
        self.endpoints: Endpoints | None = None
        self.fetched_at: float | None = None
        self.looked_at: float | None = None
        self.problem: str | None = None
        """Why its keys could not be fetched the last time, for /health."""
        self._clock = clock
        self._wanted = asyncio.Event()
        self._turn = asyncio.Lock()
        self._log = structlog.get_logger("deployment.access.oidc")

    def want_new_keys(self) -> bool:
        """Somebody shows a key id that is not known. False when we looked just now: then there is no such key."""
        if not self._may_look():
            return False
        self._wanted.set()
        return True

    async def reached(self) -> Endpoints:
        """Its endpoints, asked for now where they are not known. Raises ProviderUnavailable."""
        if self.endpoints is None:
            await self.look_again()
        if self.endpoints is None:
            raise ProviderUnavailable(
                f"{self.settings.sign_in_name} does not answer.", hint="Try again in a moment.", retry_after_s=_AGAIN_S
            )
        return self.endpoints

    async def look_again(self) -> bool:
        """Fetch now, unless that was tried a moment ago; whether it was done. Waits for a look that is under way."""
        async with self._turn:
            if not self._may_look():
                return False
            await self._look()
            return True

    async def refresh(self) -> None:
        """Fetch the keys; those known stay when that fails."""
        async with self._turn:
            await self._look()

    def _may_look(self) -> bool:
        return self.looked_at is None or self._clock.monotonic() - self.looked_at >= _AGAIN_S

    async def _look(self) -> None:
        self.looked_at = self._clock.monotonic()
        try:
            self.keys, self.endpoints = await self._fetch()
            self.fetched_at, self.problem = self._clock.monotonic(), None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, Unusable) as error:
            self.problem = f"The keys of {self.settings.issuer} cannot be fetched: {error or type(error).__name__}."
            self._log.error("oidc_keys_unavailable", issuer=self.settings.issuer, problem=self.problem)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the keys up to date until the end. A provider that is away doesn't keep us from starting."""
        async with going_on(self._loop, "keys of a provider"):
            yield

    async def _loop(self) -> None:
        while True:
            self._wanted.clear()
            await self.refresh()
            wait = _AGAIN_S if self.problem is not None else EVERY_S
            try:
                await asyncio.wait_for(self._wanted.wait(), wait)
            except TimeoutError:
                continue

    async def _fetch(self) -> tuple[Mapping[str | None, "Key"], Endpoints]:
        issuer = self.settings.issuer
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            found = await _get(session, issuer.rstrip("/") + "/.well-known/openid-configuration")
            if found.get("issuer") != issuer:
                raise Unusable(f"it calls itself {str(found.get('issuer'))[:200]!r}")
            keys_url = str(found.get("jwks_uri", ""))
            if not keys_url.startswith("https://") and not issuer.startswith("http://"):
                raise Unusable("its keys are not behind https")
            return _signing_keys(await _get(session, keys_url)), _endpoints(found, issuer)


async def _get(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with session.get(url, allow_redirects=False) as response:
        if response.status != 200:
            raise Unusable(f"{url} answered {response.status}")
        return await read_object(response)


async def read_object(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """The JSON object of an answer, within bounds. Raises Unusable or ValueError."""
    body = await response.content.read(_MOST_BYTES + 1)
    while len(body) <= _MOST_BYTES and (more := await response.content.read(_MOST_BYTES)):
        body += more
    if len(body) > _MOST_BYTES:
        raise Unusable(f"{response.url} is too long")
    value = orjson.loads(body)
    if not isinstance(value, dict):
        raise Unusable(f"{response.url} is not an object")
    return value


def _endpoints(document: dict[str, Any], issuer: str) -> Endpoints:
    """An address that is not behind https is none, but for a provider on this machine."""

    def at(name: str) -> str | None:
        url = document.get(name)
        allowed = ("https://", "http://") if issuer.startswith("http://") else ("https://",)
        return url if isinstance(url, str) and url.startswith(allowed) else None

    methods = document.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
    return Endpoints(
        authorization=at("authorization_endpoint"),
        token=at("token_endpoint"),
        userinfo=at("userinfo_endpoint"),
        end_session=at("end_session_endpoint"),
        basic="client_secret_basic" in methods or "client_secret_post" not in methods,
        names_itself=document.get("authorization_response_iss_parameter_supported") is True,
    )


def _signing_keys(document: dict[str, Any]) -> Mapping[str | None, "Key"]:
    """Public signing keys. A symmetric one that somebody published by mistake would let anybody sign."""
    from joserfc.errors import JoseError
    from joserfc.jwk import JWKRegistry

    keys: dict[str | None, Key] = {}
    for entry in document.get("keys", ()):
        if not isinstance(entry, dict) or entry.get("kty") not in {"RSA", "EC", "OKP"} or entry.get("use") == "enc":
            continue
        public = {name: value for name, value in entry.items() if name not in {"d", "p", "q", "dp", "dq", "qi", "oth"}}
        try:
            key = JWKRegistry.import_key(public)
        except (JoseError, ValueError, TypeError, KeyError):
            continue  # of a kind that we don't know; the others are good
        keys[entry.get("kid")] = key
    if not keys:
        raise Unusable("it publishes no signing key")
    return keys

"""The keys that a provider publishes, kept up to date in the background."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
import structlog

from deployment.clock import Clock
from deployment.settings import OidcProvider

if TYPE_CHECKING:
    from joserfc.jwk import Key

EVERY_S = 300.0
_AGAIN_S = 10.0
"""Shortest time between two looks: tokens with made-up key ids must not make us a nuisance."""
_TIMEOUT = aiohttp.ClientTimeout(total=5)
_MOST_BYTES = 1024 * 1024


class _Unusable(Exception):
    """What the provider answered cannot be used; the message says why."""


class Provider:
    """One provider. `keys` are its public signing keys by their id (None for one without)."""

    def __init__(self, settings: OidcProvider, clock: Clock) -> None:
        self.settings = settings
        self.keys: Mapping[str | None, Key] = {}
        self.fetched_at: float | None = None
        self.looked_at: float | None = None
        self.problem: str | None = None
        """Why its keys could not be fetched the last time, for /health."""
        self._clock = clock
        self._wanted = asyncio.Event()
        self._log = structlog.get_logger("deployment.access.oidc")

    def want_new_keys(self) -> bool:
        """Somebody shows a key id that is not known. False when we looked just now: then there is no such key."""
        if self.looked_at is not None and self._clock.monotonic() - self.looked_at < _AGAIN_S:
            return False
        self._wanted.set()
        return True

    async def refresh(self) -> None:
        """Fetch the keys; those known stay when that fails."""
        self.looked_at = self._clock.monotonic()
        try:
            self.keys = await self._fetch()
            self.fetched_at, self.problem = self._clock.monotonic(), None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, _Unusable) as error:
            self.problem = f"The keys of {self.settings.issuer} cannot be fetched: {error or type(error).__name__}."
            self._log.error("oidc_keys_unavailable", issuer=self.settings.issuer, problem=self.problem)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the keys up to date until the end. A provider that is away doesn't keep us from starting."""
        loop = asyncio.create_task(self._loop())
        try:
            yield
        finally:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)

    async def _loop(self) -> None:
        while True:
            self._wanted.clear()
            await self.refresh()
            wait = _AGAIN_S if self.problem is not None else EVERY_S
            try:
                await asyncio.wait_for(self._wanted.wait(), wait)
            except TimeoutError:
                continue

    async def _fetch(self) -> Mapping[str | None, "Key"]:
        issuer = self.settings.issuer
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            found = await _get(session, issuer.rstrip("/") + "/.well-known/openid-configuration")
            if found.get("issuer") != issuer:
                raise _Unusable(f"it calls itself {str(found.get('issuer'))[:200]!r}")
            keys_url = str(found.get("jwks_uri", ""))
            if not keys_url.startswith("https://") and not issuer.startswith("http://"):
                raise _Unusable("its keys are not behind https")
            return _signing_keys(await _get(session, keys_url))


async def _get(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with session.get(url, allow_redirects=False) as response:
        if response.status != 200:
            raise _Unusable(f"{url} answered {response.status}")
        body = await response.content.read(_MOST_BYTES + 1)
        while len(body) <= _MOST_BYTES and (more := await response.content.read(_MOST_BYTES)):
            body += more
    if len(body) > _MOST_BYTES:
        raise _Unusable(f"{url} is too long")
    value = orjson.loads(body)
    if not isinstance(value, dict):
        raise _Unusable(f"{url} is not an object")
    return value


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
        raise _Unusable("it publishes no signing key")
    return keys

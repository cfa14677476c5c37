"""Use cases: begin to sign in, come back signed in, sign out."""

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import structlog
from cryptography.fernet import Fernet

from deployment.access.audit import Act
from deployment.access.directory import Directory
from deployment.access.model import Principal, SessionRecord
from deployment.access.oidc import Provider, id_token_claims
from deployment.access.oidc.claims import has_claim, principal_of, printable
from deployment.access.sessions import BrowserSession, SessionStore
from deployment.access.sign_in.pending import Pending, unseal
from deployment.access.sign_in.tokens import authorization_url, end_session_url, redeem, userinfo
from deployment.clock import Clock
from deployment.errors import Forbidden, InvalidRequest, NotFound, ProviderUnavailable, SignInFailed, Unauthenticated
from deployment.settings import OidcProvider

AT_ONCE = 16
"""Answers of providers looked into at the same time; more wait, and no longer than `_LONGEST_S`."""
_LONGEST_S = 25.0
_MOST_ID_TOKEN = 2560
"""Signing out sends it on in an address: with a longer one, the headers are too large for proxies (nginx: 4 KiB)."""
_NAMES = ("name", "preferred_username", "email")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the provider sends with the browser that comes back."""

    state: str
    code: str | None = field(default=None, repr=False)
    error: str | None = None
    issuer: str | None = None


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A new session. Its id is for the browser's cookie alone."""

    session_id: str = field(repr=False)
    seconds: int
    next: str


class SignIn:
    """Over the providers that have a client of ours. `public_url` is where browsers reach us."""

    def __init__(
        self,
        public_url: str,
        lifetime_s: float,
        providers: Iterable[Provider],
        directory: Directory,
        store: SessionStore,
        refresh: Callable[[], Awaitable[None]],
        clock: Clock,
    ) -> None:
        self.providers = {one.settings.issuer: one for one in providers if one.settings.client_id}
        self._public_url = public_url
        self._redirect_uri = f"{public_url}/auth/callback"
        self._again = f"Begin again at {public_url}/auth/login."
        self._lifetime = timedelta(seconds=lifetime_s)
        self._directory, self._store, self._refresh, self._clock = directory, store, refresh, clock
        self._places = asyncio.Semaphore(AT_ONCE)
        self._key: Fernet | None = None
        self._log = structlog.get_logger("deployment.access.sign_in")

    def url(self, path: str) -> str:
        """A path of ours, as browsers reach it."""
        return f"{self._public_url}{path}"

    async def begin(self, name: str | None, next_path: str) -> tuple[str, str]:
        """Where the browser goes now, and what it keeps meanwhile. `name` is one of several providers'."""
        provider = self._named(name)
        pending = Pending.begin(provider.settings.issuer, next_path)
        endpoints = await provider.reached()
        if endpoints.authorization is None or endpoints.token is None:
            raise ProviderUnavailable(f"{provider.settings.sign_in_name} publishes no address to sign in at.")
        sealed = pending.seal(await self._sealing_key(), self._now())
        return authorization_url(provider, endpoints.authorization, pending, self._redirect_uri), sealed

    async def finish(self, answer: Answer, kept: str | None, before: bytes | None, caller: Principal) -> SignedIn:
        """A session for who signed in, in place of the one that the browser had `before`.

        `kept` is what the browser kept; `caller` tells the record where the request came from. Raises SignInFailed,
        Forbidden, ProviderRefused, ProviderUnavailable or DatabaseUnavailable; each says what to do.
        """
        pending = unseal(kept, await self._sealing_key(), self._now(), self._again)
        if not hmac.compare_digest(pending.state.encode(), answer.state.encode()):
            raise SignInFailed("This answer of the provider belongs to another sign-in.", hint=self._again)
        provider = self.providers.get(pending.issuer)
        if provider is None:
            raise SignInFailed("The provider of this sign-in is no longer accepted here.", hint=self._again)
        try:
            async with asyncio.timeout(_LONGEST_S), self._places:
                claims, id_token = await self._who(provider, pending, answer)
        except TimeoutError:
            raise ProviderUnavailable(
                f"{provider.settings.sign_in_name} does not answer in time.", hint=self._again, retry_after_s=5.0
            ) from None
        await self._refresh()  # a tenant that was made a moment ago counts
        principal = self._accepted(claims, provider)
        session_id = secrets.token_urlsafe(32)
        record = self._record(session_id.encode(), principal, claims, provider.settings)
        actor = replace(principal, source=caller.source, request_id=caller.request_id)
        act = Act(record.created_at, actor, "session.begin", record.public_id, {"issuer": record.issuer})
        kept_token = id_token if len(id_token) <= _MOST_ID_TOKEN else None
        await self._store.begin(act, record, kept_token, _sha256(before) if before else None)
        await self._refresh()
        return SignedIn(session_id, int(self._lifetime.total_seconds()), pending.next)

    async def sign_out(self, session: BrowserSession, caller: Principal) -> str | None:
        """End the session here and, within a second, everywhere. Returns where to sign out of the provider too."""
        actor = replace(session.principal, source=caller.source, request_id=caller.request_id)
        act = Act(self._clock.now(), actor, "session.end", session.record.public_id, {})
        id_token = await self._store.end(act, session.record.sha256)
        await self._refresh()
        address = self.sign_out_at(session)
        if address is None:
            return None
        return end_session_url(self.providers[session.record.issuer], address, id_token, self.url("/auth"))

    def sign_out_at(self, session: BrowserSession) -> str | None:
        """The address at which the session's provider signs people out, if it has one."""
        provider = self.providers.get(session.record.issuer)
        return provider.endpoints.end_session if provider is not None and provider.endpoints is not None else None

    async def _who(self, provider: Provider, pending: Pending, answer: Answer) -> tuple[dict[str, Any], str]:
        """The verified claims of who signed in, and the token that holds them."""
        endpoints = await provider.reached()
        if answer.issuer not in {None, pending.issuer} or (answer.issuer is None and endpoints.names_itself):
            raise SignInFailed("The answer comes from another provider than was asked.", hint=self._again)
        if answer.error is not None:
            raise _declined(answer.error, provider.settings.sign_in_name, self._again)
        if not answer.code:
            raise SignInFailed("The provider's answer holds no code.", hint=self._again)
        tokens = await redeem(provider, endpoints, answer.code, pending.verifier, self._redirect_uri)
        claims = await self._verified(tokens.id_token, provider)
        if not hmac.compare_digest(str(claims.get("nonce")).encode(), pending.nonce.encode()):
            raise SignInFailed("The provider's ID token was made for another sign-in.", hint=self._again)
        if endpoints.userinfo and tokens.access_token and not _tells_enough(claims, provider.settings):
            told = await userinfo(provider, endpoints.userinfo, tokens.access_token, str(claims["sub"]))
            claims = told | claims
        claims.pop("scope", None)  # what a client may do, where it stands at all; a person may do what the roles allow
        return claims, tokens.id_token

    async def _verified(self, id_token: str, provider: Provider) -> dict[str, Any]:
        client_id, token = provider.settings.client_id or "", id_token.encode()
        try:
            try:
                return id_token_claims(token, provider, client_id, self._now())
            except Unauthenticated:
                if not await provider.look_again():  # it may sign with a new key
                    raise
                return id_token_claims(token, provider, client_id, self._now())
        except Unauthenticated as error:
            self._log.warning("id_token_refused", issuer=provider.settings.issuer, reason=error.message)
            raise SignInFailed(f"{error.message} It is the provider's ID token.", hint=self._again) from None

    def _accepted(self, claims: Mapping[str, Any], provider: Provider) -> Principal:
        principal = principal_of(claims, provider.settings, self._directory)
        if not principal.permissions:
            raise Forbidden(
                f"{principal.name} has no role here.",
                hint=f"An administrator can give one, by {provider.settings.roles_claim} at the provider.",
            )
        return principal

    def _record(
        self, session_id: bytes, principal: Principal, claims: Mapping[str, Any], provider: OidcProvider
    ) -> SessionRecord:
        now = self._clock.now()
        told = [claims[name] for name in _NAMES if isinstance(claims.get(name), str) and claims[name].strip()]
        return SessionRecord(
            sha256=_sha256(session_id),
            principal_id=principal.id,
            name=principal.name,
            shown_name=printable(told[0].strip()) if told else principal.name,
            tenant=principal.tenant,
            roles=tuple(sorted(principal.roles)),
            scopes=tuple(sorted(principal.scopes)),
            issuer=provider.issuer,
            created_at=now,
            seen_at=now,
            expires_at=now + self._lifetime,
            ended_at=None,
        )

    def _named(self, name: str | None) -> Provider:
        known = {one.settings.sign_in_name: one for one in self.providers.values()}
        if name is None and len(known) == 1:
            return next(iter(known.values()))
        if name is None:
            raise InvalidRequest(
                "There are several providers.", hint=f"Say provider={'|'.join(known)}.", param="provider"
            )
        if name not in known:
            raise NotFound(f"There is no provider {printable(name)!r}.", hint=f"There are: {', '.join(known)}.")
        return known[name]

    async def _sealing_key(self) -> Fernet:
        if self._key is None:
            self._key = Fernet(await self._store.sealing_key())
        return self._key

    def _now(self) -> float:
        return self._clock.now().timestamp()


def _tells_enough(claims: Mapping[str, Any], provider: OidcProvider) -> bool:
    """Whether the ID token itself says tenant and roles, as far as the settings ask for them."""
    wanted = [provider.roles_claim] if provider.role_map else []
    wanted += [provider.tenant_claim] if provider.tenant_claim else []
    return all(has_claim(claims, name) for name in wanted)


def _declined(error: str, name: str, again: str) -> SignInFailed | Forbidden | ProviderUnavailable:
    if error == "access_denied":
        return Forbidden(f"{name} did not let you in, or you did not agree.", hint=again)
    if error in {"temporarily_unavailable", "server_error"}:
        return ProviderUnavailable(f"{name} cannot sign anybody in now.", hint=again, retry_after_s=5.0)
    shown = error if error.replace("_", "").isalpha() and error.isascii() else "an error"
    return SignInFailed(f"{name} says: {shown[:64]}.", hint=again)


def _sha256(session_id: bytes) -> str:
    return hashlib.sha256(session_id).hexdigest()

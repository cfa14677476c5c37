"""Tells whose session a request's cookie is, from memory alone, and refuses what a foreign page made a browser send."""

import hashlib
import hmac
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from deployment.access.directory import Directory
from deployment.access.model import Principal, SessionRecord
from deployment.access.sessions.cookies import Cookies, cookie_of
from deployment.clock import Clock
from deployment.errors import Forbidden
from deployment.settings import SessionSettings

CSRF_HEADER = "X-CSRF-Token"
_CSRF = CSRF_HEADER.lower().encode()
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_LATE = timedelta(seconds=60)
"""The last use at another gateway may be known here only this much later."""


@dataclass(frozen=True, slots=True)
class BrowserSession:
    """A session as a request shows it."""

    record: SessionRecord
    principal: Principal
    csrf_token: str


class Browsers:
    """Finds the session behind a request's cookie. `origin` is where browsers reach us."""

    def __init__(
        self, settings: SessionSettings, origin: str, issuers: Collection[str], directory: Directory, clock: Clock
    ) -> None:
        self.cookies = Cookies(secure=origin.startswith("https:"))
        self._cookie = self.cookies.session.encode()
        self._idle = timedelta(seconds=settings.idle_seconds) + _LATE
        self._origin = origin.encode()
        self._issuers = frozenset(issuers)
        self._directory = directory
        self._clock = clock

    def shown(self, scope: Mapping[str, Any]) -> bytes | None:
        """The session's id that the request's cookie shows, whatever it is worth."""
        return cookie_of(scope["headers"], self._cookie)

    def find(self, scope: Mapping[str, Any]) -> BrowserSession | None:
        """The session behind the cookie, if it goes on and its tenant and provider may still be used."""
        session_id = self.shown(scope)
        if not session_id:
            return None
        record = self._directory.sessions.find(hashlib.sha256(session_id).hexdigest())
        if record is None or record.tenant not in self._directory.tenants or record.issuer not in self._issuers:
            return None
        now = self._clock.now()
        if now >= record.expires_at or now >= self._directory.sessions.last_seen(record) + self._idle:
            return None
        self._directory.sessions.note_use(record, now)
        return BrowserSession(record, self._principal(record), csrf_token(session_id))

    def principal(self, scope: Mapping[str, Any]) -> Principal | None:
        """Who is signed in. Raises Forbidden where the request would change something and may be forged."""
        session = self.find(scope)
        if session is None:
            return None
        if scope["type"] != "http" or scope["method"] not in _READING:
            self.refuse_forged(scope, session, dict(scope["headers"]).get(_CSRF, b""))
        return session.principal

    def refuse_forged(self, scope: Mapping[str, Any], session: BrowserSession, token: bytes) -> None:
        """Raise Forbidden unless our own page sent the request with the session's token."""
        if not from_origin(scope["headers"], self._origin):
            reason = "The request does not come from a page of this server."
        elif not hmac.compare_digest(token, session.csrf_token.encode()):
            reason = f"The request lacks the session's token in {CSRF_HEADER}, or has another one's."
        else:
            return
        if (state := scope.get("state")) is not None:
            state["caller"] = session.principal  # for the record
        raise Forbidden(reason, hint=f"Take csrf_token from GET /auth/me and send it as {CSRF_HEADER}.")

    def _principal(self, record: SessionRecord) -> Principal:
        return Principal(
            id=record.principal_id,
            name=record.name,
            tenant=record.tenant,
            roles=frozenset(record.roles),
            scopes=frozenset(record.scopes),
            key_hash=record.sha256[:12],
            permissions=self._directory.permitted(record.roles, record.scopes),
        )


def csrf_token(session_id: bytes) -> str:
    """What our own pages send beside the cookie. A foreign page can neither read the cookie nor this."""
    return hmac.new(session_id, b"csrf", hashlib.sha256).hexdigest()


def from_origin(headers: Iterable[tuple[bytes, bytes]], origin: bytes) -> bool:
    """Whether a browser says that a page of ours sent the request; one of the two headers must be there."""
    told = False
    for name, value in headers:
        if name == b"origin":
            if value != origin:
                return False
            told = True
        elif name == b"sec-fetch-site":
            if value != b"same-origin":
                return False
            told = True
    return told

"""What a browser keeps while it signs in, sealed: so that any gateway can go on, and nothing fills our memory."""

import re
import secrets
from dataclasses import asdict, dataclass

import orjson
from cryptography.fernet import Fernet, InvalidToken

from deployment.access.sessions.cookies import SIGNING_IN_S
from deployment.errors import InvalidRequest, SignInFailed

MOST_NEXT = 1024
# Browsers take a backslash for a slash, and drop tabs and line ends: what could become `//elsewhere` is no path.
_LOCAL_PATH = re.compile(r"/(?![/\\])[!-\[\]-~]*")


@dataclass(frozen=True, slots=True)
class Pending:
    """One sign-in under way."""

    issuer: str
    state: str
    """Comes back with the provider's answer: it was this browser that began."""
    nonce: str
    """Comes back in the ID token: it was made for this sign-in."""
    verifier: str
    """Of PKCE: only who began can use the code."""
    next: str
    """Where to go when signed in, a path here."""

    @classmethod
    def begin(cls, issuer: str, next_path: str) -> "Pending":
        """A new one. Raises InvalidRequest where `next_path` could lead elsewhere."""
        return cls(issuer, _random(), _random(), _random(), local_path(next_path))

    def seal(self, key: Fernet, now: float) -> str:
        """For the browser's cookie."""
        return key.encrypt_at_time(orjson.dumps(asdict(self)), int(now)).decode()


def unseal(cookie: str | None, key: Fernet, now: float, again: str) -> Pending:
    """What the cookie holds. Raises SignInFailed, with `again` as what to do, when it is missing, old or not ours."""
    if not cookie:
        raise SignInFailed("No sign-in was begun in this browser, or it took too long.", hint=again)
    try:
        if now - key.extract_timestamp(cookie) > SIGNING_IN_S:
            raise SignInFailed(f"The sign-in took longer than {SIGNING_IN_S // 60} minutes.", hint=again)
        return Pending(**orjson.loads(key.decrypt(cookie)))
    except (InvalidToken, ValueError, TypeError):
        raise SignInFailed("What this browser keeps of its sign-in cannot be read.", hint=again) from None


def local_path(path: str) -> str:
    """The path, if it leads to this server and nowhere else. Raises InvalidRequest."""
    if len(path) > MOST_NEXT or not _LOCAL_PATH.fullmatch(path):
        raise InvalidRequest("next must be a path on this server.", hint="For instance /auth.", param="next")
    return path


def _random() -> str:
    return secrets.token_urlsafe(32)

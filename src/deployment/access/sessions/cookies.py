"""The two cookies: of a session, and of a browser that is signing in."""

from collections.abc import Iterable
from dataclasses import dataclass

from starlette.responses import Response

SIGNING_IN_S = 600
"""How long signing in may take."""


@dataclass(frozen=True, slots=True)
class Cookies:
    """How browsers keep them. Behind https the prefix makes sure that no other site of the domain wrote them."""

    secure: bool

    @property
    def session(self) -> str:
        """The name of the session's cookie."""
        return "__Host-ramsey-session" if self.secure else "ramsey-session"

    @property
    def signing_in(self) -> str:
        """The name of the cookie of a browser that is signing in."""
        return "__Host-ramsey-sign-in" if self.secure else "ramsey-sign-in"

    def give(self, response: Response, name: str, value: str, seconds: int) -> None:
        """Let the browser keep one, away from scripts; it comes with links from elsewhere, not with their forms."""
        response.set_cookie(name, value, max_age=seconds, path="/", secure=self.secure, httponly=True, samesite="lax")

    def take(self, response: Response, name: str) -> None:
        """Let the browser forget one."""
        self.give(response, name, "", 0)


def cookie_of(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The value of a cookie in a request's headers."""
    for header, value in headers:
        if header == b"cookie" and name in value:
            for pair in value.split(b";"):
                found, _, content = pair.strip().partition(b"=")
                if found == name:
                    return content
    return None

"""Headers that every answer carries."""

from collections.abc import Iterable

from deployment.settings import ServerSettings

Header = tuple[bytes, bytes]

CSP = b"content-security-policy"
NO_PAGE = b"default-src 'none'; frame-ancestors 'none'"
"""The policy of what is no page: nothing in it may load or run, nobody may frame it."""


def fixed_headers(settings: ServerSettings) -> tuple[Header, ...]:
    """The same for every answer."""
    headers = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
    if settings.tls_cert is not None and settings.hsts_seconds:
        headers.append((b"strict-transport-security", b"max-age=%d" % settings.hsts_seconds))
    return tuple(headers)


def lines_of(headers: Iterable[Header]) -> bytes:
    """Headers as the lines of an answer's head."""
    return b"".join(b"%b: %b\r\n" % header for header in headers)

"""API keys: `rk_<public id>_<secret><checksum>`.

The public id may be shown and logged, the secret (190 random bits) is known to its holder alone, and the
checksum lets typing mistakes and secret scanners be told from keys without asking anybody.
"""

import hashlib
import re
import secrets
import zlib
from dataclasses import dataclass, field

PREFIX = "rk_"
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PUBLIC_ID_CHARS = 10
_SECRET_CHARS = 32  # log2(62) * 32 = 190 bits
_CHECKSUM_CHARS = 6  # 62**6 > 2**32
_FORM = re.compile(
    rf"{PREFIX}(?P<public_id>[0-9A-Za-z]{{{_PUBLIC_ID_CHARS}}})"
    rf"_[0-9A-Za-z]{{{_SECRET_CHARS}}}(?P<checksum>[0-9A-Za-z]{{{_CHECKSUM_CHARS}}})"
)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key at its birth, the only moment at which it is known whole."""

    key: str = field(repr=False)
    public_id: str
    sha256: str
    """What is stored, in hex."""


def generate_key() -> NewKey:
    """Make a key from the system's random source."""
    public_id = _random(_PUBLIC_ID_CHARS)
    body = f"{PREFIX}{public_id}_{_random(_SECRET_CHARS)}"
    key = body + _checksum(body)
    return NewKey(key=key, public_id=public_id, sha256=key_sha256(key))


def key_sha256(key: str | bytes) -> str:
    """What a key is stored and looked up as: its SHA-256, in hex.

    A plain hash is enough, for a key has too many bits to be guessed; a slow one would cost each request.
    """
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).hexdigest()


def public_id_of(key: str) -> str | None:
    """The public id of a key that is whole; None for one that is misspelt, cut, or not of our form."""
    match = _FORM.fullmatch(key)
    if match is None or _checksum(key[:-_CHECKSUM_CHARS]) != match["checksum"]:
        return None
    return match["public_id"]


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _checksum(body: str) -> str:
    """CRC-32 in base 62."""
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(_CHECKSUM_CHARS):
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits

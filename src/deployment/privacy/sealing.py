"""Conversations under lock: AES-256-GCM, bound to the row that they stand in."""

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from deployment.errors import ConfigurationError
from deployment.privacy.model import Conversation, Sealed
from deployment.settings import PrivacyKey

_KEY_BYTES, _NONCE_BYTES = 32, 12


class Unsealable(ConfigurationError):
    """A stored conversation cannot be read with the keys at hand."""


class Sealer:
    """Seals with the first of the keys, opens with any. A key is asked for anew each time: its store may change it."""

    def __init__(self, keys: Sequence[PrivacyKey]) -> None:
        self._keys = {key.id: key for key in keys}
        self._first = keys[0].id if keys else None

    @property
    def key_id(self) -> str | None:
        """The key that seals now; None without any: then nothing can be kept."""
        return self._first

    def check(self) -> None:
        """Raises ConfigurationError for a key that is none."""
        for key_id in self._keys:
            self._key(key_id)

    def seal(self, conversation: Conversation) -> Sealed:
        """Lock a conversation. Raises ConfigurationError where there is no key."""
        if self._first is None:
            raise ConfigurationError("No key seals conversations.", hint=_HINT)
        one = conversation
        sealed = Sealed(
            one.id,
            one.tenant,
            self.tag(one.tenant, one.subject, self._first),
            self._first,
            one.at,
            one.expires_at,
            one.request_id,
            one.model,
            one.release,
            b"",
        )
        nonce = os.urandom(_NONCE_BYTES)
        plain = orjson.dumps({"subject": one.subject, **one.content})
        box = AESGCM(self._key(self._first)).encrypt(nonce, plain, _place(sealed))
        return replace(sealed, sealed=nonce + box)

    def open(self, sealed: Sealed) -> Conversation:
        """Unlock one. Raises Unsealable for a key that is gone, or a row that was changed."""
        if sealed.key_id not in self._keys:
            raise Unsealable(f"A conversation is sealed with the key {sealed.key_id}, which is not here.", hint=_HINT)
        nonce, box = sealed.sealed[:_NONCE_BYTES], sealed.sealed[_NONCE_BYTES:]
        try:
            plain = AESGCM(self._key(sealed.key_id)).decrypt(nonce, box, _place(sealed))
        except InvalidTag:
            raise Unsealable(
                f"The conversation {sealed.id} was changed, or the key {sealed.key_id} is another than the one that "
                "sealed it."
            ) from None
        content = orjson.loads(plain)
        subject = content.pop("subject")
        return Conversation(
            sealed.id,
            sealed.tenant,
            subject,
            sealed.at,
            sealed.expires_at,
            sealed.request_id,
            sealed.model,
            sealed.release,
            content,
        )

    def tags(self, tenant: str, subject: str) -> list[str]:
        """Under which a subject's conversations may stand: one for each key."""
        return [self.tag(tenant, subject, key_id) for key_id in self._keys]

    def tag(self, tenant: str, subject: str, key_id: str) -> str:
        """A subject's keyed hash, in hex."""
        key = hashlib.sha256(b"ramsey subject\0" + self._key(key_id)).digest()
        return hmac.new(key, f"{tenant}\0{subject}".encode(), hashlib.sha256).hexdigest()

    def _key(self, key_id: str) -> bytes:
        try:
            key = base64.b64decode(self._keys[key_id].secret.get_secret_value(), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != _KEY_BYTES:
            raise ConfigurationError(f"privacy.keys: {key_id} is no key of 32 bytes in base64.", hint=_HINT)
        return key


def _place(row: Sealed) -> bytes:
    """What the seal is bound to: a box that is moved to another row, or another tenant, does not open."""
    times = [_iso(row.at), _iso(row.expires_at)]
    return orjson.dumps([row.id, row.tenant, row.subject_tag, row.key_id, row.request_id, row.release, *times])


def _iso(at: datetime) -> str:
    return at.isoformat()


_HINT = "Make one with `openssl rand -base64 32`, and name it in privacy.keys (docs/privacy.md)."

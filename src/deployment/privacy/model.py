"""What is kept of conversations, for whom, and how long. Pure."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Wish:
    """What a tenant asked for. Without one nothing is kept."""

    tenant: str
    keep: bool
    days: int
    """How long a conversation is kept."""
    redact: bool
    """Replace personal data before it is kept."""
    set_at: datetime | None = None
    set_by: str = ""


@dataclass(frozen=True, slots=True)
class Conversation:
    """One request with its answer, as callers and model saw it."""

    id: str
    tenant: str
    subject: str
    """Whose it is: what the caller said of its user, else the key."""
    at: datetime
    expires_at: datetime
    request_id: str
    model: str
    release: str
    content: dict[str, Any]
    """`prompt` (text or messages), `system`, `answer`."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A conversation as it is stored."""

    id: str
    tenant: str
    subject_tag: str
    """A keyed hash: finds a subject's conversations, and tells nobody whose they are."""
    key_id: str
    at: datetime
    expires_at: datetime
    request_id: str
    model: str
    release: str
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Erased:
    """What was erased of a subject."""

    conversations: int
    votes: int

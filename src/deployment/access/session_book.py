"""The sessions that are known here, in memory. Changes come in from the store, last uses go out."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from deployment.access.model import SessionRecord

_SEEN_EVERY = timedelta(seconds=30)
"""How exactly the last use is noted: each note is news for every gateway."""


class SessionBook:
    """Every session that has not ended, by the SHA-256 of its cookie."""

    def __init__(self) -> None:
        self._records: dict[str, SessionRecord] = {}
        self._seen: dict[str, datetime] = {}

    def find(self, sha256: str) -> SessionRecord | None:
        """The session of this hash."""
        return self._records.get(sha256)

    def apply(self, changed: Iterable[SessionRecord], *, anew: bool = False) -> None:
        """Take in what is new; `anew` when that is all there is. Once this returns, an ended session is nobody's."""
        if anew:
            self._records.clear()
        for record in changed:
            if record.ended_at is None:
                self._records[record.sha256] = record
            else:
                self._records.pop(record.sha256, None)

    def last_seen(self, record: SessionRecord) -> datetime:
        """When it was last used, here or as far as others told."""
        return max(record.seen_at, self._seen.get(record.sha256, record.seen_at))

    def note_use(self, record: SessionRecord, now: datetime) -> None:
        """It is used now."""
        if now - self.last_seen(record) > _SEEN_EVERY:
            self._seen[record.sha256] = now

    def take_seen(self) -> Mapping[str, datetime]:
        """The last uses since the last call, which the store does not know yet."""
        seen, self._seen = self._seen, {}
        # Kept here too: until the store's own word comes back, a session that is used must not look idle.
        for sha256, at in seen.items():
            if (record := self._records.get(sha256)) is not None and at > record.seen_at:
                self._records[sha256] = replace(record, seen_at=at)
        return seen

    def forget(self, now: datetime) -> None:
        """Drop what is over."""
        for sha256 in [sha256 for sha256, record in self._records.items() if record.expires_at <= now]:
            del self._records[sha256]

"""The answers of the last time, so that a caller's vote finds its release. Bounded."""

from collections import deque
from typing import NamedTuple

_PARTS = 4


class Answered(NamedTuple):
    """Who gave an answer."""

    release: str
    rollout: str | None
    """The rollout that it was drawn in; None outside one, and for pinned requests."""
    subject: str
    """Whose request it was."""


class RecentAnswers:
    """Remembers at least the last `entries` answers, at most a quarter more, each under its tenant: nobody finds
    another tenant's."""

    def __init__(self, entries: int) -> None:
        self._part = max(1, entries // _PARTS)
        # By hashes of tenant and request, in half the memory: 64 bits that nobody outside can foresee. In parts, the
        # oldest of which goes whole: to take out one for each new one would cost every request something.
        self._new: dict[int, Answered] = {}
        self._parts: deque[dict[int, Answered]] = deque([self._new], maxlen=_PARTS + 1)
        self._known: dict[tuple[str, str | None, str], Answered] = {}

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def note(self, tenant: str, request_id: str, release: str, rollout: str | None, subject: str) -> None:
        """An answer was given."""
        answered = self._known.get((release, rollout, subject))
        if answered is None:
            if len(self._known) > 1000:
                self._known.clear()
            answered = self._known[release, rollout, subject] = Answered(release, rollout, subject)
        if len(self._new) >= self._part:
            self._new = {}
            self._parts.append(self._new)
        self._new[hash((tenant, request_id))] = answered

    def find(self, tenant: str, request_id: str) -> Answered | None:
        """Who answered that tenant's request; None where it is not known here, or not any more."""
        key = hash((tenant, request_id))
        return next((part[key] for part in reversed(self._parts) if key in part), None)

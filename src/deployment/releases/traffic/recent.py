"""The answers of the last time, so that a caller's vote finds its release. Bounded."""

from typing import NamedTuple


class Answered(NamedTuple):
    """Who gave an answer."""

    release: str
    rollout: str | None
    """The rollout that it was drawn in; None outside one, and for pinned requests."""
    subject: str
    """Whose request it was."""


class RecentAnswers:
    """Remembers at least the last `entries` answers, at most twice as many, each under its tenant: nobody finds
    another tenant's."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        # By hashes of tenant and request, in half the memory: 64 bits that nobody outside can foresee.
        self._new: dict[int, Answered] = {}
        self._old: dict[int, Answered] = {}
        self._known: dict[tuple[str, str | None, str], Answered] = {}

    def note(self, tenant: str, request_id: str, release: str, rollout: str | None, subject: str) -> None:
        """An answer was given."""
        answered = self._known.get((release, rollout, subject))
        if answered is None:
            if len(self._known) > 1000:
                self._known.clear()
            answered = self._known[release, rollout, subject] = Answered(release, rollout, subject)
        self._new[hash((tenant, request_id))] = answered
        if len(self._new) >= self._entries:
            self._old, self._new = self._new, {}

    def find(self, tenant: str, request_id: str) -> Answered | None:
        """Who answered that tenant's request; None where it is not known here, or not any more."""
        key = hash((tenant, request_id))
        return self._new.get(key) or self._old.get(key)

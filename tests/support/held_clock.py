"""A clock that a test moves by hand."""

from datetime import UTC, datetime, timedelta


class HeldClock:
    """Stands still until `advance`."""

    def __init__(self, at: datetime = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)) -> None:
        self._start = self._at = at

    def now(self) -> datetime:
        """The time it shows."""
        return self._at

    def monotonic(self) -> float:
        """Seconds since it was made."""
        return (self._at - self._start).total_seconds()

    def advance(self, seconds: float) -> None:
        """Move on."""
        self._at += timedelta(seconds=seconds)

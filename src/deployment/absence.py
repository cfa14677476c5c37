"""A service that does not answer is left alone for a while: not every request may wait for it."""

from collections.abc import Callable

_RETRY_S = 1.0


class Absence:
    """While the service is away, one caller a second tries it; the others go on without."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._until: float | None = None

    def __bool__(self) -> bool:
        """Whether it did not answer when it was last tried."""
        return self._until is not None

    def may_try(self) -> bool:
        """Whether the caller is to ask it: it is there, or this is the one who tries it again."""
        if self._until is None:
            return True
        now = self._monotonic()
        if now < self._until:
            return False
        self._until = now + _RETRY_S
        return True

    def begin(self) -> bool:
        """It did not answer. Whether that is news."""
        news = self._until is None
        self._until = self._monotonic() + _RETRY_S
        return news

    def end(self) -> bool:
        """It answered. Whether that is news."""
        news, self._until = self._until is not None, None
        return news

"""What our own listener tells of a caller's connection, beyond ASGI. Under another server there is none of it."""

from collections.abc import Callable
from typing import Protocol

from starlette.types import Scope

EXTENSION = "ramsey.connection"
"""Its name among the extensions of a scope."""


class CallerConnection(Protocol):
    """The connection of the request that is being answered."""

    @property
    def body_is_here(self) -> bool:
        """Whether the body has come to its end, so that `receive` gives all of it at once."""
        ...

    def when_gone(self, call: Callable[[], None] | None) -> None:
        """Call this once when the caller leaves, at once if they have; None: no more."""
        ...

    def join_next(self) -> None:
        """Send the head of the answer, which comes next, together with the first of its body, which must follow."""
        ...


def connection_of(scope: Scope) -> CallerConnection | None:
    """The connection of an HTTP request, where our own listener took it."""
    extensions = scope.get("extensions")
    return extensions.get(EXTENSION) if extensions else None

"""Answers to questions that mean the same, found by the cosine of their embeddings."""

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Entry:
    vector: Sequence[float]
    key: bytes


class SemanticIndex:
    """Questions by scope. Vectors have length 1, as the pool gives them.

    A scope holds everything but the question (tenant, release, options, earlier turns): only its wording may differ.
    """

    def __init__(self, threshold: float, max_entries: int, max_scopes: int = 1024) -> None:
        self._threshold, self._max_entries, self._max_scopes = threshold, max_entries, max_scopes
        self._scopes: OrderedDict[bytes, deque[_Entry]] = OrderedDict()

    def find(self, scope: bytes, vector: Sequence[float]) -> bytes | None:
        """The key of the nearest answer, if it is near enough."""
        entries = self._scopes.get(scope)
        if not entries:
            return None
        self._scopes.move_to_end(scope)
        best = max(entries, key=lambda entry: cosine(entry.vector, vector))
        return best.key if cosine(best.vector, vector) >= self._threshold else None

    def add(self, scope: bytes, vector: Sequence[float], key: bytes) -> None:
        """Remember a question; the oldest of a scope, and the scope not used for longest, are forgotten."""
        entries = self._scopes.setdefault(scope, deque(maxlen=self._max_entries))
        entries.append(_Entry(vector, key))
        self._scopes.move_to_end(scope)
        if len(self._scopes) > self._max_scopes:
            self._scopes.popitem(last=False)


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Of two vectors of length 1; vectors of different dimensions are not alike."""
    if len(one) != len(other):
        return 0.0
    return sum(map(float.__mul__, one, other))

"""The gateway's table: which release answers for a model. The only alias there is."""

from collections.abc import Mapping
from types import MappingProxyType


class Traffic:
    """Model -> release, held in memory and replaced as a whole, so that no request sees half a change."""

    def __init__(self) -> None:
        self._table: Mapping[str, str] = MappingProxyType({})

    @property
    def table(self) -> Mapping[str, str]:
        """What is served now; never changed in place."""
        return self._table

    def point(self, model: str, release: str) -> None:
        """From now on `release` (`ramsey-model:v1.1`) answers for `model`."""
        self._table = MappingProxyType({**self._table, model: release})

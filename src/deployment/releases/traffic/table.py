"""The gateway's table: which release answers for a model. The only alias there is."""

from collections.abc import Mapping
from types import MappingProxyType


class Traffic:
    """Model -> release, held in memory and replaced as a whole, so that no request sees half a change."""

    def __init__(self) -> None:
        self._table: Mapping[str, str] = MappingProxyType({})
        self._control_tokens: dict[str, tuple[str, ...]] = {}

    @property
    def table(self) -> Mapping[str, str]:
        """What is served now; never changed in place."""
        return self._table

    def point(self, model: str, release: str) -> None:
        """From now on `release` (`ramsey-model:v1.1`) answers for `model`."""
        self._table = MappingProxyType({**self._table, model: release})

    def learn(self, release: str, control_tokens: tuple[str, ...] | None) -> None:
        """Keep which texts a release reads as structure, where that is known."""
        if control_tokens is not None:
            self._control_tokens[release] = control_tokens

    def control_tokens(self, release: str) -> tuple[str, ...] | None:
        """The texts that a release reads as structure; None where that is not known."""
        return self._control_tokens.get(release)

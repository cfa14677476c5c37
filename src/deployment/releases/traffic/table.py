"""The gateway's table: which releases answer for a model. The only alias there is."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from deployment.releases.traffic.choice import Route
from deployment.releases.traffic.model import Split, single
from deployment.releases.traits import Traits


class Traffic:
    """Held in memory and replaced as a whole, so that no request sees half a change."""

    def __init__(self) -> None:
        self._table: Mapping[str, str] = MappingProxyType({})
        self._routes: Mapping[str, Route] = MappingProxyType({})
        self._traits: dict[str, Traits] = {}
        self._digests: dict[str, str | None] = {}
        self.version = 0
        """Of the stored table that this one was made of; 0 before it was read."""

    @property
    def table(self) -> Mapping[str, str]:
        """Model -> the release with most of its traffic; never changed in place."""
        return self._table

    @property
    def routes(self) -> Mapping[str, Route]:
        """Model -> its split, made ready for choices; never changed in place."""
        return self._routes

    @property
    def splits(self) -> list[Split]:
        """What is served now."""
        return [route.split for route in self._routes.values()]

    def split(self, model: str) -> Split | None:
        """One model's split."""
        route = self._routes.get(model)
        return route.split if route is not None else None

    def swap(self, splits: Iterable[Split], version: int) -> None:
        """From now on these splits are the whole table."""
        before = self._routes
        routes = {}
        for split in splits:
            old = before.get(split.model)
            routes[split.model] = old if old is not None and old.split == split else Route(split)
        self._routes = MappingProxyType(routes)
        self._table = MappingProxyType({model: route.split.main for model, route in routes.items()})
        self.version = version

    def point(self, model: str, release: str) -> None:
        """From now on `release` (`ramsey-model:v1.1`) alone answers for `model`, in this process."""
        others = [split for split in self.splits if split.model != model]
        self.swap([*others, single(model, release)], self.version)

    def learn(self, release: str, traits: Traits | None) -> None:
        """Keep how a release reads and answers, where that is known."""
        if traits is not None:
            self._traits[release] = traits

    def traits(self, release: str) -> Traits | None:
        """How a release reads and answers, where that is known."""
        return self._traits.get(release)

    def know_digest(self, release: str, digest: str | None) -> None:
        """Which digest a release has on every node; None where nodes may differ."""
        self._digests[release] = digest

    def digest(self, release: str) -> str | None:
        """The digest that a release has on every node, where that is known."""
        return self._digests.get(release)

    def expected(self) -> dict[str, str | None]:
        """Every release that nodes are to hold and keep loaded, with its digest where that is known."""
        return {release: self._digests.get(release) for split in self.splits for release in split.releases}

    def places(self) -> dict[str, Mapping[str, str]]:
        """Labels of the nodes that releases belong to; releases without belong to every node."""
        return {share.release: share.nodes for split in self.splits for share in split.shares if share.nodes}

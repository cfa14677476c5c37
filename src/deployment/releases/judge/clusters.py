"""Sticky callers: many requests, one sample in each step."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

_MOST = 4096


@dataclass(slots=True)
class Clusters:
    """Which sessions or keys have counted, and which of them have failed; the oldest are forgotten."""

    seen: "OrderedDict[str, bool]" = field(default_factory=OrderedDict)

    def first(self, cluster: str, *, failed: bool) -> tuple[bool, bool]:
        """Whether this is the cluster's first request, and whether it is its first failure."""
        before = self.seen.get(cluster)
        self.seen[cluster] = failed or before is True
        if len(self.seen) > _MOST:
            self.seen.popitem(last=False)
        return before is None, failed and before is not True

    def state(self) -> list[Any]:
        """As a JSON array."""
        return [[name, int(failed)] for name, failed in self.seen.items()]

    @classmethod
    def load(cls, state: list[Any]) -> "Clusters":
        """What `state` told."""
        return cls(OrderedDict((str(name), bool(failed)) for name, failed in state))

"""What the pool takes and shows."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

MEMORY_LABEL = "memory_gb"
"""The label that says how much memory a node has for models, in GB: engines do not tell."""


class Priority(StrEnum):
    """Who goes first when slots are short."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class NodeState(StrEnum):
    """What placement makes of a node."""

    UNKNOWN = "unknown"  # not checked yet: takes work
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"  # the last check failed
    OPEN = "open"  # the breaker took it out
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Call:
    """One inference to place."""

    path: str
    """`/api/chat` or `/api/generate`."""
    release: str
    """Versioned tag on the nodes: `ramsey-model:v1.1`."""
    body: dict[str, Any]
    """Ollama's body without `model`; its `stream` says streaming or not."""
    tenant: str = "default"
    priority: Priority = Priority.INTERACTIVE
    session: str | None = None
    """Affinity key, if the caller gave one."""
    timeout_s: float | None = None
    """The caller's own limit for the whole request, in seconds."""


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A member of the pool."""

    name: str
    url: str
    slots: int
    weight: float = 1.0
    labels: dict[str, str] = field(default_factory=dict)
    source: str = "settings"
    """`settings`, `dns` or `admin`: who added it."""

    @property
    def region(self) -> str | None:
        """The label that placement looks at."""
        return self.labels.get("region")


@dataclass(frozen=True, slots=True)
class ReleaseView:
    """One release on one node."""

    release: str
    in_flight: int
    present: bool | None
    """None: not known yet."""
    loaded: bool
    expected_ttft_s: float | None
    """What placement expects of an idle slot; None before the first answer."""
    service_s: float | None
    load_s: float | None


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as people and metrics see it."""

    name: str
    url: str
    state: NodeState
    slots: int
    share: int
    """Slots that this gateway may use: all of them, or what other gateways leave."""
    weight: float
    labels: dict[str, str]
    source: str
    in_flight: int
    version: str | None
    checked_at: datetime | None
    problem: str | None
    retry_in_s: float | None
    """Seconds until a node that was taken out is tried again."""
    releases: tuple[ReleaseView, ...]
    loaded_bytes: int = 0
    """Memory that its loaded models take, as its last check said."""

    @property
    def memory_bytes(self) -> float | None:
        """Its memory for models, by its label; None without one."""
        try:
            return float(self.labels[MEMORY_LABEL]) * 1e9
        except (KeyError, ValueError):
            return None

    @property
    def memory_share(self) -> float | None:
        """The share of it that loaded models take; None without the label."""
        return self.loaded_bytes / self.memory_bytes if self.memory_bytes else None

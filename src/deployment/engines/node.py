"""A node as the pool knows it now: counters, what experience and checks say, no decisions."""

from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from deployment.engines import breaker
from deployment.engines.learned import Learned
from deployment.engines.model import NodeSpec, NodeState, NodeView, ReleaseView
from deployment.engines.prefix import PrefixMemory
from deployment.engines.seats import Seats
from deployment.ollama_client import OllamaClient

_MAX_SESSIONS = 10_000


@dataclass(slots=True)
class OnNode:
    """One release on one node."""

    release: str
    seats: Seats
    in_flight: int = 0
    loaded: bool | None = None
    """None: not known yet."""
    missing: bool = False
    """The node itself said that it cannot serve it; holds until a check says otherwise."""
    learned: Learned = field(default_factory=Learned)


@dataclass(slots=True)
class Checked:
    """What the last check found."""

    at: datetime | None = None
    ok: bool | None = None
    problem: str | None = None
    version: str | None = None
    tags: list[dict[str, Any]] = field(default_factory=list)
    ps: list[dict[str, Any]] = field(default_factory=list)
    digests: dict[str, str] | None = None
    """Release to digest; None: never listed."""


class GivesUp(Protocol):
    """An attempt, as far as its node knows it."""

    def give_up(self) -> None:
        """Wait no longer."""
        ...


class Node:
    """Its state. Changed by admission (counters), outcomes (breaker, learned) and health (checked)."""

    def __init__(self, spec: NodeSpec, client: OllamaClient, affinity_blocks: int) -> None:
        self.spec = spec
        self.client = client
        self.share = spec.slots
        self.draining = False
        self.breaker = breaker.CLOSED
        self.trouble: str | None = None
        """What failed on it last, a check or a request."""
        self.checked = Checked()
        self.prefixes = PrefixMemory(affinity_blocks)
        self.progress_at = 0.0
        """When it last gave an event (monotonic seconds)."""
        self.picked = 0.0
        """Requests placed here over the weight; a newcomer starts at the others' level."""
        self.picked_last = 0
        """Number of the last placement here, counted over the pool."""
        self.first_waits: set[GivesUp] = set()
        """Attempts that wait for their first event."""
        self._releases: dict[str, OnNode] = {}
        self._sessions: OrderedDict[str, None] = OrderedDict()

    @property
    def name(self) -> str:
        """Its name."""
        return self.spec.name

    def on(self, release: str) -> OnNode:
        """Its state of a release."""
        if (found := self._releases.get(release)) is None:
            checked = self.checked
            loaded = None if checked.digests is None else any(row.get("name") == release for row in checked.ps)
            found = self._releases[release] = OnNode(release, Seats(self.spec.slots), loaded=loaded)
        return found

    @property
    def releases(self) -> list[OnNode]:
        """The releases that were asked of it."""
        return list(self._releases.values())

    @property
    def in_flight(self) -> int:
        """Requests on it, over all releases."""
        return sum(on.in_flight for on in self._releases.values())

    def holds(self, release: str) -> bool | None:
        """Whether it can serve the release; None: not known."""
        if (on := self._releases.get(release)) is not None and on.missing:
            return False
        digests = self.checked.digests
        return None if digests is None else release in digests

    def remember_session(self, session: str) -> None:
        """The session's last request came here."""
        self._sessions[session] = None
        self._sessions.move_to_end(session)
        if len(self._sessions) > _MAX_SESSIONS:
            self._sessions.popitem(last=False)

    def has_session(self, session: str) -> bool:
        """Whether it served the session."""
        return session in self._sessions

    def forget_session(self, session: str) -> None:
        """Another node serves it now."""
        self._sessions.pop(session, None)

    def restarted(self) -> None:
        """What was in its memory is gone."""
        self.prefixes.forget()
        self._sessions.clear()
        for on in self._releases.values():
            on.loaded = False
            on.seats.forget()

    def give_up_waiting(self) -> None:
        """The node fell silent: who waits for a first event goes elsewhere now."""
        for attempt in tuple(self.first_waits):
            attempt.give_up()

    def state(self) -> NodeState:
        """What placement makes of it."""
        if self.draining:
            return NodeState.DRAINING
        if self.breaker.phase is not breaker.Phase.CLOSED:
            return NodeState.OPEN
        if self.checked.ok is None:
            return NodeState.UNKNOWN
        return NodeState.HEALTHY if self.checked.ok else NodeState.UNHEALTHY

    def view(self, now: float) -> NodeView:
        """As people and metrics see it."""
        names = list(dict.fromkeys([*self._releases, *(self.checked.digests or ())]))
        retry = self.breaker.retry_at - now if self.breaker.phase is breaker.Phase.OPEN else None
        trouble = self.trouble if self.breaker.phase is not breaker.Phase.CLOSED else None
        return NodeView(
            name=self.spec.name,
            url=self.spec.url,
            state=self.state(),
            slots=self.spec.slots,
            share=self.share,
            weight=self.spec.weight,
            labels=dict(self.spec.labels),
            source=self.spec.source,
            in_flight=self.in_flight,
            version=self.checked.version,
            checked_at=self.checked.at,
            problem=self.checked.problem or trouble,
            retry_in_s=None if retry is None else max(0.0, retry),
            releases=tuple(self._release_view(name) for name in names),
            loaded_bytes=sum(size for row in self.checked.ps if isinstance(size := row.get("size"), int)),
        )

    def _release_view(self, release: str) -> ReleaseView:
        on = self._releases.get(release) or OnNode(release, Seats(1))
        loaded = {str(row.get("name")) for row in self.checked.ps}
        return ReleaseView(
            release=release,
            in_flight=on.in_flight,
            present=self.holds(release),
            loaded=on.loaded if on.loaded is not None else release in loaded,
            expected_ttft_s=on.learned.first_token_s,
            service_s=on.learned.service_s,
            load_s=on.learned.load_s,
        )

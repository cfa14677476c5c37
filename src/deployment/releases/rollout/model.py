"""A rollout as it is kept, and what traffic it stands for. Pure."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from deployment.releases.rollout.figures import Figures
from deployment.releases.rollout.plan import Plan, Step, Strategy
from deployment.releases.traffic import Shadow, Share, Split, Sticky


class Phase(StrEnum):
    """Where it is."""

    PREPARING = "preparing"
    """The release comes onto its nodes."""
    GATES = "gates"
    """It is loaded and checked, without traffic."""
    SHADOW = "shadow"
    """Requests are mirrored to it."""
    STEPS = "steps"
    """It has a share of the traffic."""
    BAKE = "bake"
    """It has all of it; the old release is kept warm."""
    DONE = "done"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"
    REFUSED = "refused"
    """It never got traffic: it could not be brought onto the nodes, or a gate said no."""

    @property
    def over(self) -> bool:
        """Nothing moves any more."""
        return self in {Phase.DONE, Phase.ROLLED_BACK, Phase.ABORTED, Phase.REFUSED}

    @property
    def judged(self) -> bool:
        """Answers of the release are counted."""
        return self in {Phase.SHADOW, Phase.STEPS, Phase.BAKE}


class Stop(StrEnum):
    """Why it stands still until a person says something."""

    PAUSED = "paused"
    INCONCLUSIVE = "inconclusive"
    """The step's deadline came, and the evidence was not enough. Never promotes by itself."""
    APPROVAL = "approval"
    DECISION = "decision"
    """An A/B test has run its time."""


@dataclass(frozen=True, slots=True)
class GateOutcome:
    """What one gate said."""

    name: str
    passed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Rollout:
    """The move of a model's traffic from one release to another."""

    id: str
    model: str
    from_release: str
    to_release: str
    plan: Plan
    phase: Phase
    step: int
    """Number of the step, from 0; counts in the phase `steps`."""
    since: datetime
    """When the step, or the phase, began."""
    started_at: datetime
    started_by: str
    reason: str
    """Why it is where it is, in words."""
    ended_at: datetime | None = None
    stop: Stop | None = None
    note: str = ""
    """What the one who started it said of it."""
    approved: frozenset[int] = frozenset()
    """The steps that a person approved."""
    gates: tuple[GateOutcome, ...] = ()
    verdicts: tuple[dict[str, Any], ...] = ()
    """The judge's last, as JSON objects."""
    judge: dict[str, Any] = field(default_factory=dict)
    """The judge's state; empty before the first answer."""
    cursor: int = 0
    """The outcomes up to this number are in the judge's state."""
    votes: int = 0
    """The same of callers' votes."""
    figures: Figures = field(default_factory=Figures)
    waits: str = ""
    """What it waits for now, in words."""
    lost_before: int = 0
    """Outcomes that were lost before this step began: they are no gap in it."""
    moved_at: datetime | None = None
    """When the traffic last changed."""
    revision: int = 0
    """Raised by every change; set by the store."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """The plan's steps, filled in."""
        return self.plan.path

    @property
    def weight(self) -> float:
        """The new release's share of the traffic."""
        if self.phase in {Phase.BAKE, Phase.DONE}:
            return 1.0 if self.steps else 0.0
        return self.steps[self.step].weight if self.phase is Phase.STEPS else 0.0

    @property
    def warm(self) -> bool:
        """The new release shall be loaded on its nodes, with or without traffic."""
        if self.phase.over or self.phase is Phase.PREPARING:
            return False
        return self.plan.strategy is not Strategy.RECREATE or self.phase is not Phase.GATES


def wanted_split(rollout: Rollout, now: Split) -> Split:
    """The traffic that a rollout in its phase stands for; pins of releases that leave go with them."""
    shares, candidate, shadow = _shares(rollout, now), None, None
    running = not rollout.phase.over
    if running and rollout.warm:
        candidate = rollout.to_release
        if rollout.phase is Phase.SHADOW and rollout.plan.mirror is not None:
            shadow = Shadow(rollout.to_release, rollout.plan.mirror.share)
    held = {share.release for share in shares}
    sticky = now.sticky
    if running:
        usual = "key" if rollout.plan.strategy is Strategy.AB else None
        sticky = Sticky(rollout.plan.sticky or usual or now.sticky.value)
    return replace(
        now,
        shares=shares,
        pins=tuple(pin for pin in now.pins if pin.release in held),
        sticky=sticky if running else now.sticky,
        salt=rollout.id if running else now.salt,
        shadow=shadow,
        candidate=candidate,
        rollout=rollout.id if running else None,
        reason=rollout.reason[:1000],
    )


def _shares(rollout: Rollout, now: Split) -> tuple[Share, ...]:
    before = {share.release: share.nodes for share in now.shares}
    weight = rollout.weight
    old = Share(rollout.from_release, 1.0 - weight, before.get(rollout.from_release, {}))
    new = Share(rollout.to_release, weight, rollout.plan.nodes)
    if rollout.phase.over:
        return (replace(new, weight=1.0),) if weight == 1.0 else (replace(old, weight=1.0),)
    if not rollout.warm:
        return (replace(old, weight=1.0),)
    cold = rollout.plan.strategy is Strategy.RECREATE and weight == 1.0
    return (new,) if cold else (old, new)

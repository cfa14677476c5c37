"""What a rollout does next: `decide(rollout, facts, now) -> Decision`. Pure; a controller carries it out.

The rules, in order: what failed goes back, at any time; what a person stopped stands still; nothing moves forward
without the release on its nodes, or against a freeze; a step passes by evidence alone, never by the lack of it.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from deployment.releases.judge import Result, Verdict, overall
from deployment.releases.rollout.model import GateOutcome, Phase, Rollout, Stop
from deployment.releases.rollout.plan import Strategy


@dataclass(frozen=True, slots=True)
class Facts:
    """What a decision may look at."""

    placed: bool | None = None
    """Whether the release is on its nodes with equal digests; None: not known yet."""
    trouble: str = ""
    """Why it is not, in words."""
    gates: tuple[GateOutcome, ...] | None = None
    """None: not known yet."""
    missing: tuple[str, ...] = ()
    """Healthy nodes of the release that do not hold it now."""
    nodes: int = 1
    """Healthy nodes of the release."""
    verdicts: tuple[Verdict, ...] = ()
    mirrored: int = 0
    frozen: str | None = None
    """The freeze window or lock that holds, in words."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing changes."""

    reason: str


@dataclass(frozen=True, slots=True)
class Enter:
    """Go on: to a phase, and within `steps` to a step."""

    phase: Phase
    reason: str
    step: int = 0
    gates: tuple[GateOutcome, ...] | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """Stand still, and tell a person."""

    stop: Stop
    reason: str


@dataclass(frozen=True, slots=True)
class Resume:
    """Stand still no longer; the step's time begins anew."""

    reason: str
    approved: int | None = None


@dataclass(frozen=True, slots=True)
class End:
    """It is over, in this phase."""

    phase: Phase
    reason: str
    gates: tuple[GateOutcome, ...] | None = None


Decision = Wait | Enter | Hold | Resume | End


def decide(rollout: Rollout, facts: Facts, now: datetime) -> Decision:
    """The next thing to do."""
    if rollout.phase.over:
        return Wait("it is over")
    if rollout.phase.judged and (failed := [v for v in facts.verdicts if v.result is Result.FAIL]):
        return End(Phase.ROLLED_BACK, f"Rolled back: {' '.join(verdict.reason for verdict in failed)}")
    if rollout.stop is not None:
        return Wait(rollout.reason)
    match rollout.phase:
        case Phase.PREPARING:
            return _prepare(rollout, facts, now)
        case Phase.GATES:
            return _gates(rollout, facts, now)
        case Phase.SHADOW:
            return _shadow(rollout, facts, now)
        case Phase.STEPS:
            return _step(rollout, facts, now)
        case _:
            return _bake(rollout, now)


def _prepare(rollout: Rollout, facts: Facts, now: datetime) -> Decision:
    if facts.placed:
        return Enter(Phase.GATES, f"{rollout.to_release} is on its nodes.")
    if facts.placed is False:
        return End(Phase.REFUSED, f"{facts.trouble} The traffic stays as it was.")
    if _age(rollout, now) >= rollout.plan.prepare_timeout:
        late = f"{rollout.to_release} was not on its nodes after {_long(rollout.plan.prepare_timeout)}."
        return End(Phase.REFUSED, f"{late} {facts.trouble} The traffic stays as it was.".replace("  ", " "))
    return Wait(facts.trouble or f"{rollout.to_release} comes onto its nodes.")


def _gates(rollout: Rollout, facts: Facts, now: datetime) -> Decision:
    if facts.gates is None:
        if _age(rollout, now) >= rollout.plan.gates.timeout:
            late = f"The gates had no answer after {_long(rollout.plan.gates.timeout)}."
            return End(Phase.REFUSED, f"{late} The traffic stays as it was.")
        return Wait("The gates look at it.")
    if closed := [gate for gate in facts.gates if not gate.passed]:
        told = " ".join(f"{gate.name}: {gate.reason}" for gate in closed)
        return End(Phase.REFUSED, f"A gate said no. {told} The traffic stays as it was.", facts.gates)
    if rollout.plan.mirror is not None:
        share = f"{rollout.plan.mirror.share:.0%}"
        return Enter(Phase.SHADOW, f"Every gate passed; {share} of the requests are mirrored.", 0, facts.gates)
    return _to_step(rollout, 0, facts, "Every gate passed.", facts.gates)


def _shadow(rollout: Rollout, facts: Facts, now: datetime) -> Decision:
    mirror = rollout.plan.mirror
    if mirror is None:
        return _to_step(rollout, 0, facts, "Nothing is mirrored.")
    age = _age(rollout, now)
    if age < mirror.time or facts.mirrored < mirror.min_requests:
        if age >= mirror.time + rollout.plan.deadline:
            seen = f"only {facts.mirrored} of {mirror.min_requests} requests were mirrored"
            return Hold(Stop.INCONCLUSIVE, f"After {_long(age)} {seen}. `ramsey rollout promote` goes on all the same.")
        return Wait(f"{facts.mirrored} requests were mirrored.")
    if rollout.plan.strategy is Strategy.SHADOW:
        return End(Phase.DONE, f"{facts.mirrored} requests were mirrored; the traffic stays as it was.")
    return _to_step(rollout, 0, facts, f"{facts.mirrored} requests were mirrored.")


def _step(rollout: Rollout, facts: Facts, now: datetime) -> Decision:
    step, age = rollout.steps[rollout.step], _age(rollout, now)
    unjudged = not step.min_requests
    result = Result.PASS if unjudged else overall(facts.verdicts)
    if result is Result.PASS and age >= (step.min_time or 0.0):
        return _next(rollout, facts)
    if age >= (step.deadline or rollout.plan.deadline) and result is not Result.PASS:
        open_ = " ".join(v.reason for v in facts.verdicts if v.result is Result.INCONCLUSIVE)
        return Hold(
            Stop.INCONCLUSIVE,
            f"Undecided after {_long(age)} at {part(step.weight)}: {open_ or 'there is no evidence yet.'} "
            "It holds its share; `ramsey rollout promote`, `resume` or `abort` decides.",
        )
    return Wait("The evidence grows." if result is not Result.PASS else "Its least time is not over.")


def _next(rollout: Rollout, facts: Facts) -> Decision:
    step = rollout.steps[rollout.step]
    if rollout.plan.strategy is Strategy.AB:
        return Hold(Stop.DECISION, "The test has run its time: `ramsey rollout promote` or `abort` decides.")
    if rollout.step + 1 < len(rollout.steps):
        return _to_step(rollout, rollout.step + 1, facts, f"{part(step.weight)} of the traffic passed.")
    return promoted(rollout, "The last step passed.")


def promoted(rollout: Rollout, why: str) -> Decision:
    """All traffic, from now on."""
    if rollout.plan.keep_warm and rollout.plan.strategy is not Strategy.RECREATE:
        kept = f"{rollout.from_release} is kept warm for {_long(rollout.plan.keep_warm)}."
        return Enter(Phase.BAKE, f"{why} {rollout.to_release} has all traffic; {kept}")
    return End(Phase.DONE, f"{why} {rollout.to_release} has all traffic.")


def _bake(rollout: Rollout, now: datetime) -> Decision:
    if _age(rollout, now) >= rollout.plan.keep_warm:
        return End(Phase.DONE, f"{rollout.to_release} kept well; {rollout.from_release} is let go.")
    return Wait(f"{rollout.from_release} is kept warm.")


def _to_step(
    rollout: Rollout, step: int, facts: Facts, why: str, gates: tuple[GateOutcome, ...] | None = None
) -> Decision:
    """To a step, unless something forbids it."""
    weight = part(rollout.steps[step].weight)
    if facts.frozen is not None:
        return Wait(f"{why} {facts.frozen}")
    if not facts.nodes:
        return Wait(f"{why} No healthy node belongs to {rollout.to_release}.")
    if facts.missing:
        return Wait(f"{why} {rollout.to_release} is not on {', '.join(facts.missing)} yet.")
    if rollout.steps[step].approval and step not in rollout.approved:
        return Hold(Stop.APPROVAL, f"{why} {weight} of the traffic needs an approval: `ramsey rollout approve`.")
    return Enter(Phase.STEPS, f"{why} {rollout.to_release} gets {weight} of the traffic.", step, gates)


def apply(rollout: Rollout, decision: Decision, now: datetime) -> Rollout:
    """The rollout after a decision."""
    match decision:
        case Wait():
            return rollout
        case Enter(phase, reason, step, gates):
            return replace(
                rollout,
                phase=phase,
                waits="",
                step=step if phase is Phase.STEPS else rollout.step,
                since=now,
                stop=None,
                reason=reason,
                gates=rollout.gates if gates is None else gates,
            )
        case Hold(stop, reason):
            return replace(rollout, stop=stop, reason=reason, waits="")
        case Resume(reason, approved):
            more = frozenset() if approved is None else frozenset({approved})
            return replace(rollout, stop=None, reason=reason, waits="", since=now, approved=rollout.approved | more)
        case End(phase, reason, gates):
            return replace(
                rollout,
                phase=phase,
                stop=None,
                waits="",
                since=now,
                ended_at=now,
                reason=reason,
                gates=rollout.gates if gates is None else gates,
            )


def part(weight: float) -> str:
    """A share for people."""
    return f"{weight * 100:.4g} %"


def _age(rollout: Rollout, now: datetime) -> float:
    return (now - rollout.since).total_seconds()


def _long(seconds: float) -> str:
    """A length for people."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 600 else f"{seconds:.0f} s"

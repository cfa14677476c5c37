"""What a person may say to a rollout, and what comes of it. Pure; Conflict says the next step where it cannot be."""

from enum import StrEnum

from deployment.errors import Conflict
from deployment.releases.rollout.decide import Decision, End, Enter, Hold, Resume, part, promoted
from deployment.releases.rollout.model import Phase, Rollout, Stop


class Verb(StrEnum):
    """The words."""

    PROMOTE = "promote"
    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"
    APPROVE = "approve"
    ROLLBACK = "rollback"


def commanded(rollout: Rollout, verb: Verb, who: str, reason: str = "", *, full: bool = False) -> Decision:
    """The decision that a person takes. `full` promotes to all traffic at once."""
    if rollout.phase.over:
        raise Conflict(
            f"The rollout {rollout.id} is over: {rollout.phase.value.replace('_', ' ')}.",
            hint="`ramsey rollback` takes the traffic back; `ramsey deploy` begins anew.",
        )
    why = f": {reason}" if reason else ""
    match verb:
        case Verb.PAUSE:
            if rollout.stop is Stop.PAUSED:
                raise Conflict("It is paused already.", hint="`ramsey rollout resume` goes on.")
            return Hold(Stop.PAUSED, f"Paused by {who}{why}.")
        case Verb.RESUME:
            return _resume(rollout, who, why)
        case Verb.APPROVE:
            return _approve(rollout, who, why)
        case Verb.ABORT:
            return End(Phase.ABORTED, f"Aborted by {who}{why}. {rollout.from_release} has all traffic.")
        case Verb.ROLLBACK:
            return End(Phase.ROLLED_BACK, f"Rolled back by {who}{why}. {rollout.from_release} has all traffic.")
        case Verb.PROMOTE:
            return _promote(rollout, who, why, full)


def _resume(rollout: Rollout, who: str, why: str) -> Decision:
    if rollout.stop is None:
        raise Conflict("It does not stand still.", hint="`ramsey rollout watch` shows what it does.")
    if rollout.stop is Stop.APPROVAL:
        raise Conflict("It waits for an approval.", hint="`ramsey rollout approve` gives it.")
    if rollout.stop is Stop.DECISION:
        raise Conflict("The test has run its time.", hint="`ramsey rollout promote` or `abort` decides.")
    return Resume(f"Resumed by {who}{why}.")


def _approve(rollout: Rollout, who: str, why: str) -> Decision:
    if rollout.stop is not Stop.APPROVAL:
        raise Conflict("It waits for no approval.", hint="`ramsey rollout show` says what it waits for.")
    step = rollout.step + 1 if rollout.phase is Phase.STEPS else 0
    return Resume(f"{part(rollout.steps[step].weight)} approved by {who}{why}.", step)


def _promote(rollout: Rollout, who: str, why: str, full: bool) -> Decision:
    said = f"Promoted by {who}{why}."
    if rollout.phase in {Phase.PREPARING, Phase.GATES}:
        raise Conflict(
            f"{rollout.to_release} has not passed its gates yet: it may not be on every node.",
            hint="Wait for them; a gate is left out by gates.skip in the plan.",
        )
    if rollout.phase is Phase.BAKE:
        return End(Phase.DONE, f"{said} {rollout.from_release} is let go.")
    if not rollout.steps:
        return End(Phase.DONE, f"{said} A shadow moves no traffic.")
    step = rollout.step + 1 if rollout.phase is Phase.STEPS else 0
    if full or step >= len(rollout.steps):
        return promoted(rollout, said)
    return Enter(Phase.STEPS, f"{said} {rollout.to_release} gets {part(rollout.steps[step].weight)}.", step)

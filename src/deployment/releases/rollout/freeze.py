"""Whether a moment lies in a plan's freeze. Pure."""

from datetime import datetime

from deployment.releases.rollout.plan import Plan, frozen_by


def frozen(plan: Plan, now: datetime) -> str | None:
    """What holds, in words; None where nothing does."""
    local = now.astimezone(plan.zone)
    window = frozen_by(plan.freeze, local.weekday(), local.hour * 60 + local.minute)
    return f"It is frozen: {window} ({plan.freeze.timezone})." if window is not None else None

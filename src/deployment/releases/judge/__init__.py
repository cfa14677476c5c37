"""The judge: whether a release that has a part of the traffic is as good as the one before it. Pure."""

from deployment.releases.judge.judge import Judge
from deployment.releases.judge.model import (
    Evidence,
    GuardFacts,
    JudgeLimits,
    Result,
    StepNeeds,
    Verdict,
    overall,
)

__all__ = ["Evidence", "GuardFacts", "Judge", "JudgeLimits", "Result", "StepNeeds", "Verdict", "overall"]

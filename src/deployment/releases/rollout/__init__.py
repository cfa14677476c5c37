"""Rollouts: the move of a model's traffic from one release to another, judged, and taken back where it harms."""

from deployment.releases.rollout.catalogued import FromCatalogue
from deployment.releases.rollout.model import GateOutcome, Phase, Rollout, Stop
from deployment.releases.rollout.plan import Plan, Strategy
from deployment.releases.rollout.room import Releases, Rollouts
from deployment.releases.rollout.service import RolloutService

__all__ = [
    "FromCatalogue",
    "GateOutcome",
    "Phase",
    "Plan",
    "Releases",
    "Rollout",
    "RolloutService",
    "Rollouts",
    "Stop",
    "Strategy",
]

"""The ways to choose among fit nodes, one a file."""

import random
from collections.abc import Callable

from deployment.engines.placement import Policy
from deployment.engines.policies.least_expected_ttft import LeastExpectedTtft
from deployment.engines.policies.least_outstanding import LeastOutstanding
from deployment.engines.policies.random_of_two import RandomOfTwo
from deployment.engines.policies.round_robin import RoundRobin
from deployment.engines.policies.session import Session
from deployment.engines.policies.weighted import Weighted
from deployment.settings import PlacementPolicy, PoolSettings

__all__ = ["policy_of"]


def policy_of(settings: PoolSettings, rng: random.Random) -> Policy:
    """The policy that the settings name."""
    made: dict[PlacementPolicy, Callable[[], Policy]] = {
        PlacementPolicy.LEAST_EXPECTED_TTFT: lambda: LeastExpectedTtft(settings.affinity_seconds),
        PlacementPolicy.LEAST_OUTSTANDING: LeastOutstanding,
        PlacementPolicy.ROUND_ROBIN: RoundRobin,
        PlacementPolicy.WEIGHTED: Weighted,
        PlacementPolicy.RANDOM_OF_TWO: lambda: RandomOfTwo(rng),
        PlacementPolicy.SESSION: Session,
    }
    return made[settings.policy]()

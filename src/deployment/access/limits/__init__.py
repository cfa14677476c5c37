"""How much a caller may have: taken before the work, reconciled with what it really used, given back on failure."""

from deployment.access.limits.memory import MemoryCounters
from deployment.access.limits.model import LimitFact, LimitReached, Sizes, ratelimit_headers
from deployment.access.limits.refusal import Answer
from deployment.access.limits.rules import RuleBook
from deployment.access.limits.service import Limits, Reservation
from deployment.access.limits.shared import SharedCounters

__all__ = [
    "Answer",
    "LimitFact",
    "LimitReached",
    "Limits",
    "MemoryCounters",
    "Reservation",
    "RuleBook",
    "SharedCounters",
    "Sizes",
    "ratelimit_headers",
]

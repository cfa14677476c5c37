"""The engine pool: many nodes that behave as one."""

from deployment.engines.answer import Answer
from deployment.engines.launching import Found, Presence, RunningEngine, is_loopback, launch, open_log, probe, tethered
from deployment.engines.model import MEMORY_LABEL, Call, NodeSpec, NodeState, NodeView, Priority, ReleaseView
from deployment.engines.pool import EnginePool

__all__ = [
    "MEMORY_LABEL",
    "Answer",
    "Call",
    "EnginePool",
    "Found",
    "NodeSpec",
    "NodeState",
    "NodeView",
    "Presence",
    "Priority",
    "ReleaseView",
    "RunningEngine",
    "is_loopback",
    "launch",
    "open_log",
    "probe",
    "tethered",
]

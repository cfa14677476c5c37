"""What a release must pass before it gets traffic."""

from deployment.releases.catalogue.gates.answers import EvaluationGate
from deployment.releases.catalogue.gates.model import Gate, GateContext, GateResult, run_gates
from deployment.releases.catalogue.gates.nodes import DigestsGate, LoadGate, MemoryGate, SmokeGate
from deployment.releases.catalogue.gates.outside import ExecutableGate, WebhookGate

__all__ = [
    "DigestsGate",
    "EvaluationGate",
    "ExecutableGate",
    "Gate",
    "GateContext",
    "GateResult",
    "LoadGate",
    "MemoryGate",
    "SmokeGate",
    "WebhookGate",
    "run_gates",
]

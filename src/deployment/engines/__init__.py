"""The engine pool: many nodes that behave as one."""

from deployment.engines.answer import Answer
from deployment.engines.model import Call, NodeSpec, NodeState, NodeView, Priority, ReleaseView
from deployment.engines.pool import EnginePool

__all__ = ["Answer", "Call", "EnginePool", "NodeSpec", "NodeState", "NodeView", "Priority", "ReleaseView"]

"""A faithful Ollama node without a model, that fails on demand. `python -m tests.support.fake_node` runs one."""

from tests.support.fake_node.faults import KINDS, Fault
from tests.support.fake_node.models import FakeModel
from tests.support.fake_node.node import FakeNode

__all__ = ["KINDS", "FakeModel", "FakeNode", "Fault"]

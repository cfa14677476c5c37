"""A real node for the tests of this folder, with the real model loaded from the repository."""

from collections.abc import Iterator

import httpx
import pytest
from tests.support.embedded_node import CHAT_TEMPLATE, create_model, start_node

SYSTEM = "You are the Ramsey model, a small assistant for Ramsey theory."


@pytest.fixture(scope="session")
def node_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One node with `ramsey-model:v1.1`, shared by tests that change nothing about that model."""
    with start_node(tmp_path_factory.mktemp("models"), num_parallel=2) as url:
        create_model(url, template=CHAT_TEMPLATE, system=SYSTEM, license="MIT")
        yield url


@pytest.fixture
def node(node_url: str) -> Iterator[httpx.Client]:
    """A client of the shared node."""
    with httpx.Client(base_url=node_url, timeout=60) as client:
        yield client

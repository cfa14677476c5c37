"""A gateway as in production, in a process of its own; one for many tests, for attacks leave it as it was."""

from collections.abc import Iterator

import pytest
from tests.support.attacked import Target, attacked


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with attacked(tmp_path_factory.mktemp("attacked")) as running:
        yield running

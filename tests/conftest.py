"""What more than one room's tests stand on."""

from collections.abc import Iterator

import pytest
from tests.support.stack import Stack, running_stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The gateway with the embedded engine and the trained model, as processes; one for the whole run."""
    with running_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.support.postgres_server import postgres_server

from deployment.database import Database


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """A migrated database of each kind."""
    url = request.getfixturevalue("postgres") if request.param == "postgresql" else f"sqlite:///{tmp_path}/ramsey.db"
    database = Database(url)
    await database.upgrade()
    yield url
    await database.downgrade("base")
    await database.close()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(database_url)
    yield opened
    await opened.close()

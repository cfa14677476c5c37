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
    """An empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/ramsey.db"
        return
    url: str = request.getfixturevalue("postgres")
    yield url
    database = Database(url)
    await database.upgrade()
    await database.downgrade("base")
    await database.close()

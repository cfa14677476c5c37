from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tests.support.fake_node import FakeNode

from deployment.access import LOCAL_OPERATOR
from deployment.clock import SystemClock
from deployment.database import Database
from deployment.engines import EnginePool, NodeView
from deployment.releases.catalogue import Artefacts, Catalogue, CatalogueEntry, CatalogueStore, Distribution, Wish
from deployment.settings import load

MODELS = Path(__file__).resolve().parents[4] / "models" / "ollama"


@dataclass
class Works:
    """A catalogue with v1.1 in it, and a pool of nodes that do not hold it."""

    catalogue: Catalogue
    distribution: Distribution
    pool: EnginePool
    entry: CatalogueEntry

    def nodes(self, *names: str) -> list[NodeView]:
        return [node for node in self.pool.view() if not names or node.name in names]

    async def ensure(self, *names: str) -> Any:
        return await self.distribution.ensure(self.entry.name, self.nodes(*names))

    async def create(self, version: str, modelfile: Path | None = None) -> CatalogueEntry:
        wish = Wish("ramsey-model", version)
        return await self.catalogue.create(modelfile or MODELS / "Modelfile", wish, LOCAL_OPERATOR)


@asynccontextmanager
async def works(urls: dict[str, str], tmp_path: Path, stall_s: float = 5.0, **pool: Any) -> AsyncIterator[Works]:
    nodes = [{"name": name, "url": url} for name, url in urls.items()]
    settings = load(data_dir=tmp_path, pool={"nodes": nodes, "health_interval": 0.2, **pool})
    database = Database(f"sqlite:///{tmp_path}/ramsey.db")
    await database.upgrade()
    artefacts = Artefacts(settings.releases_dir, settings.releases.max_bytes)
    catalogue = Catalogue(settings, CatalogueStore(database), artefacts, SystemClock())
    async with EnginePool(settings, SystemClock(), CollectorRegistry()) as running, AsyncExitStack() as stack:
        stack.push_async_callback(database.close)
        await running.check()
        distribution = Distribution(catalogue, running, stall_s)
        stack.push_async_callback(distribution.close)
        entry = await catalogue.create(MODELS / "Modelfile", Wish("ramsey-model", "v1.1"), LOCAL_OPERATOR)
        yield Works(catalogue, distribution, running, entry)


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[tuple[FakeNode, FakeNode, Works]]:
    """Two empty nodes, a and b."""
    async with FakeNode(models=()) as a, FakeNode(models=()) as b, works({"a": a.url, "b": b.url}, tmp_path) as made:
        yield a, b, made

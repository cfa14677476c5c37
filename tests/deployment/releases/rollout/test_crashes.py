"""What happens to a rollout when a process, a node or the database's connections die in its middle."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from tests.support.cluster import NEW, OLD, Cluster, cluster
from tests.support.postgres_server import postgres_server

from deployment.database import Database

SLOW = {
    "steps": [{"weight": weight, "min_time": "500ms"} for weight in ("10%", "100%")],
    "min_requests": 0,
    "keep_warm": "500ms",
    "shadow": {"share": "50%", "time": "500ms", "min_requests": 0},
    "probes": {"rate": 0},
}
PHASES = ["preparing", "gates", "shadow", "steps:0", "steps:1", "bake"]


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with postgres_server() as url:
        yield url


@asynccontextmanager
async def asked(cluster_: Cluster, gateway: int) -> AsyncIterator["Counter[str]"]:
    """Four callers of one gateway all the while: the releases that answered, and what failed."""
    seen: Counter[str] = Counter()

    async def ask(http: httpx.AsyncClient) -> None:
        number = 0
        while True:
            number += 1
            answer = await http.post("/generate", json={"prompt": f"Hello {number}", "temperature": 1})
            seen[answer.json()["release"] if answer.status_code == 200 else answer.text] += 1
            await asyncio.sleep(0.01)

    async with httpx.AsyncClient(base_url=cluster_.gateways[gateway].url, timeout=30) as http:
        tasks = [asyncio.create_task(ask(http)) for _ in range(4)]
        try:
            yield seen
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def cut(url: str) -> None:
    """Every connection to the database but this one."""
    database = Database(url)
    async with database.read() as connection:
        await connection.execute(
            sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        )
    await database.close()


async def test_the_leader_is_killed_in_every_phase_and_another_goes_on(postgres: str, tmp_path: Path) -> None:
    async with cluster(tmp_path, database=postgres) as two:
        leader, releases = 0, ["v1.2", "v1.1"]
        for number, phase in enumerate(PHASES):
            other = 1 - leader
            release = releases[number % 2]
            async with asked(two, other) as seen:
                made = await two.deploy(other, release, **SLOW)
                await two.until(other, made["id"], phase)
                two.gateways[leader].kill()
                ended = await two.until(other, made["id"], "done", "rolled_back", "aborted", "refused")
            assert ended["phase"] == "done", ended["reason"]
            assert await two.weights(other) == {f"ramsey-model:{release}": 1.0}
            assert seen.keys() <= {OLD, NEW}, "no request to the gateway that lives failed"
            events = (await two.http[other].get(f"/admin/rollouts/{made['id']}/events")).json()
            kinds = [event["kind"] for event in events]
            assert kinds == ["started", "gates", "shadow", "step", "step", "promoted", "done"], "each once"
            two.gateways[leader].start()
            await two.gateways[leader].ready()
            leader = other


async def test_a_single_process_goes_on_after_it_was_killed(tmp_path: Path) -> None:
    async with cluster(tmp_path, gateways=1, nodes=1) as one:
        for release, phase in (("v1.2", "gates"), ("v1.1", "steps:1")):
            made = await one.deploy(0, release, **SLOW)
            await one.until(0, made["id"], phase)
            one.gateways[0].kill()
            one.gateways[0].start()
            await one.gateways[0].ready()
            ended = await one.until(0, made["id"], "done", "rolled_back", "aborted", "refused")
            assert ended["phase"] == "done", ended["reason"]
            assert await one.weights() == {f"ramsey-model:{release}": 1.0}


async def test_connections_a_node_and_the_leader_die_in_the_middle(postgres: str, tmp_path: Path) -> None:
    async with cluster(tmp_path, database=postgres) as two:
        before = next(iter(await two.weights()))
        release, other = ("v1.2", NEW) if before == OLD else ("v1.1", OLD)
        async with asked(two, 1) as seen:
            made = await two.deploy(0, release, **SLOW)
            for phase in ("shadow", "steps:1"):
                await two.until(1, made["id"], phase)
                await cut(postgres)
            ended = await two.until(0, made["id"], "done", "rolled_back", "aborted", "refused")
            assert ended["phase"] == "done", ended["reason"]
            await two.reached({other: 1.0})

            made = await two.deploy(0, before, **SLOW | {"steps": [{"weight": 0.1, "min_time": "1h"}, 1]})
            await two.until(1, made["id"], "steps:0")
            two.nodes[1].kill()
            ended = await two.until(1, made["id"], "rolled_back")
            assert "health checks in a row" in ended["reason"]
            await two.reached({other: 1.0})

            made = await two.deploy(1, before, strategy="blue-green", probes={"rate": 0})
            await two.until(1, made["id"], "bake")
            two.gateways[0].kill()  # no leader for a moment, or another: a person needs none
            answer = await two.http[1].post("/admin/rollouts/rollback", json={})
            assert answer.status_code == 200, answer.text
            assert await two.weights(1) == {other: 1.0}
        assert seen.keys() <= {OLD, NEW}, "no request failed: other nodes answer, and the table is in memory"
        two.gateways[0].start()
        await two.gateways[0].ready()
        await two.reached({other: 1.0})

"""Two gateways as processes over one PostgreSQL, asked over HTTP: what changes on one holds on the other, also when the
database is killed."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tests.support.cluster import Cluster, cluster
from tests.support.postgres_server import postgres_server

from deployment.access import LOCAL_OPERATOR, Access, KeyWish, generate_key
from deployment.clock import SystemClock
from deployment.database import Database
from deployment.settings import load

WITHIN_S = 60.0  # on a machine that has much else to do; a quiet one needs less than one


@dataclass
class Two:
    """An administrator at the one gateway, callers at the other."""

    admin: httpx.AsyncClient
    other: httpx.AsyncClient

    async def change(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        answer = await self.admin.request(method, f"/admin{path}", json=body)
        assert answer.is_success, answer.text
        return dict(answer.json()) if answer.content else {}

    async def key(self, **wish: Any) -> tuple[str, str]:
        """A new key that the other gateway knows: its public id, and itself."""
        made = await self.change("POST", "/keys", {"name": "shop", **wish})
        await self.becomes(made["key"], 200)
        return made["public_id"], made["key"]

    async def ask(self, key: str) -> int:
        answer = await self.other.post("/generate", json={"prompt": "Hello"}, headers={"x-api-key": key})
        return answer.status_code

    async def becomes(self, key: str, status: int) -> None:
        """Until the other gateway answers so."""
        end = time.monotonic() + WITHIN_S
        while (got := await self.ask(key)) != status:
            assert time.monotonic() < end, f"it still answers {got}"
            await asyncio.sleep(0.02)


async def first_key(database_url: str) -> str:
    database = Database(database_url)
    access = Access(load(), database, SystemClock())
    async with access.running():
        made = await access.service.create_key(LOCAL_OPERATOR, KeyWish("root", roles=("admin",)))
    await database.close()
    return made.new.key


@asynccontextmanager
async def two(folder: Path, database_url: str) -> AsyncIterator[Two]:
    headers = {"x-api-key": await first_key(database_url)}
    running: Cluster
    async with (
        cluster(folder, nodes=1, database=database_url, RAMSEY_LOG__LEVEL="error") as running,
        httpx.AsyncClient(base_url=running.gateways[0].url, headers=headers, timeout=60) as admin,
        httpx.AsyncClient(base_url=running.gateways[1].url, timeout=60) as other,
    ):
        yield Two(admin, other)


async def test_what_an_administrator_changes_holds_at_the_other_gateway(tmp_path: Path) -> None:
    with postgres_server() as database_url:
        async with two(tmp_path, database_url) as gateways:
            public_id, key = await gateways.key()
            await gateways.change("POST", f"/keys/{public_id}/revoke")
            await gateways.becomes(key, 401)

            await gateways.change("PUT", "/roles/own", {"permissions": ["inference"]})
            _, key = await gateways.key(roles=["own"])
            await gateways.change("PUT", "/roles/own", {"permissions": ["models:read"]})
            await gateways.becomes(key, 403)
            await gateways.change("PUT", "/roles/own", {"permissions": ["inference"]})
            await gateways.becomes(key, 200)
            await gateways.change("DELETE", "/roles/own")
            await gateways.becomes(key, 403)

            await gateways.change("POST", "/tenants", {"id": "acme", "name": "Acme"})
            public_id, key = await gateways.key(tenant="acme")
            await gateways.change("POST", "/tenants/acme/disable")
            await gateways.becomes(key, 401)
            await gateways.change("POST", "/tenants/acme/enable")
            await gateways.becomes(key, 200)
            await gateways.change("PUT", f"/limits/key/{public_id}", {"requests_per_minute": 1})
            await gateways.becomes(key, 429)

            public_id, key = await gateways.key()
            successor = await gateways.change("POST", f"/keys/{public_id}/rotate", {"overlap_seconds": 3600})
            await gateways.becomes(successor["key"], 200)
            assert await gateways.ask(key) == 200
            public_id, key = successor["public_id"], successor["key"]
            successor = await gateways.change("POST", f"/keys/{public_id}/rotate", {"overlap_seconds": 0.5})
            await gateways.becomes(key, 401)
            assert await gateways.ask(successor["key"]) == 200


async def test_a_database_killed_under_load_fails_nobody_known_and_lets_nobody_in(tmp_path: Path) -> None:
    with postgres_server() as database_url:
        async with two(tmp_path, database_url) as gateways:
            _, known = await gateways.key()
            public_id, revoked = await gateways.key()
            await gateways.change("POST", f"/keys/{public_id}/revoke")
            await gateways.becomes(revoked, 401)
            seen: Counter[int] = Counter()
            over = asyncio.Event()

            async def call() -> None:
                while not over.is_set():
                    seen[await gateways.ask(known)] += 1

            async def told() -> None:
                while "The database (postgresql) does not answer" not in (await gateways.other.get("/health")).text:
                    await asyncio.sleep(0.05)

            callers = [asyncio.create_task(call()) for _ in range(4)]
            postmaster = Path(database_url.partition("host=")[2], "data", "postmaster.pid").read_text().split()[0]
            while seen.total() < 50:
                await asyncio.sleep(0.02)
            os.kill(int(postmaster), signal.SIGKILL)
            await asyncio.wait_for(told(), WITHIN_S)
            let_in = [await gateways.ask(key) for key in (revoked, generate_key().key, "garbage") for _ in range(5)]
            before = seen.total()
            while seen.total() < before + 50:
                await asyncio.sleep(0.02)
            over.set()
            await asyncio.gather(*callers)
            assert set(seen) == {200}
            assert set(let_in) <= {401, 503}
            assert (await gateways.other.get("/health/ready")).status_code == 200
            refused = await gateways.admin.post("/admin/keys", json={"name": "x"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "database_unavailable")

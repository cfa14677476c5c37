"""Gateways and nodes as processes over one database: what can be killed."""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tests.support.stack import ROOT, clean_environment, free_port

OLD, NEW = "ramsey-model:v1.1", "ramsey-model:v1.2"
_START_S = 90.0


@dataclass
class Gateway:
    """One gateway's process; it may be killed and started again."""

    number: int
    folder: Path
    port: int
    variables: dict[str, str]
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / f"gateway-{self.number}.log"

    def start(self) -> None:
        environment = clean_environment(**self.variables, RAMSEY_SERVER__PORT=str(self.port))
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "src/deployment/api.py"], cwd=ROOT, env=environment, stdout=output, stderr=output
            )

    def kill(self) -> None:
        """As `kill -9`."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    async def ready(self) -> None:
        end, told = time.monotonic() + _START_S, ""
        async with httpx.AsyncClient(base_url=self.url, timeout=10) as http:
            while time.monotonic() < end:
                assert self.process is not None
                assert self.process.poll() is None, self.log.read_text()[-3000:]
                with contextlib.suppress(httpx.HTTPError):
                    told = (await http.get("/health")).text
                    if json.loads(told).get("status") == "ok":
                        return
                await asyncio.sleep(0.05)
        raise AssertionError(told + self.log.read_text()[-3000:])


@dataclass
class NodeProcess:
    """A fake node's."""

    url: str
    process: "subprocess.Popen[bytes]"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass
class Cluster:
    """All of it."""

    gateways: list[Gateway]
    nodes: list[NodeProcess]
    http: list[httpx.AsyncClient] = field(default_factory=list)

    async def deploy(self, gateway: int = 0, release: str = "v1.2", **plan: Any) -> dict[str, Any]:
        body = {"release": release, "plan": plan}
        answer = await self.http[gateway].post("/admin/rollouts", json=body)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def shown(self, gateway: int = 0, rollout: str = "current") -> dict[str, Any]:
        return dict((await self.http[gateway].get(f"/admin/rollouts/{rollout}")).json())

    async def until(self, gateway: int, rollout: str, *phases: str, seconds: float = 30.0) -> dict[str, Any]:
        """The rollout, as a gateway tells it, as soon as it is in a phase, or a step of it (`steps:0`)."""
        shown: dict[str, Any] = {}
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(httpx.HTTPError, ValueError):
                shown = await self.shown(gateway, rollout)
                if shown.get("phase") in phases or f"{shown.get('phase')}:{shown.get('step')}" in phases:
                    return shown
            await asyncio.sleep(0.02)
        raise AssertionError(f"it did not come to {phases}: {shown}")

    async def weights(self, gateway: int = 0) -> dict[str, float]:
        """In a gateway's own table."""
        models = (await self.http[gateway].get("/models")).json()["models"]
        return {release: weight for release, weight in models[0]["traffic"].items() if weight}

    async def reached(self, wanted: dict[str, float], seconds: float = 10.0) -> None:
        """Until every gateway that lives has this traffic."""
        end = time.monotonic() + seconds
        found: list[dict[str, float]] = []
        while time.monotonic() < end:
            with contextlib.suppress(httpx.HTTPError):
                found = [await self.weights(gateway.number) for gateway in self.gateways]
                if all(each == wanted for each in found):
                    return
            await asyncio.sleep(0.02)
        raise AssertionError(found)


@asynccontextmanager
async def cluster(
    folder: Path,
    *,
    gateways: int = 2,
    nodes: int = 2,
    database: str | None = None,
    token_delay_s: float = 0.0,
    seed: int = 0,
    **variables: str,
) -> AsyncIterator[Cluster]:
    """Nodes that hold two releases, and gateways before them; without a database's URL each has an own file."""
    fakes = [_node(token_delay_s, seed + number) for number in range(nodes)]
    listed = [
        {"name": f"n{number}", "url": node.url, "labels": {"number": str(number)}} for number, node in enumerate(fakes)
    ]
    made = []
    for number in range(gateways):
        own = {
            "RAMSEY_DATA_DIR": str(folder / f"data-{number}"),
            "RAMSEY_ENGINE__LAUNCH": "false",
            "RAMSEY_ENGINE__HOST": fakes[0].url,
            "RAMSEY_MODEL__MODELFILE": "none",
            "RAMSEY_MODEL__RELEASE": "v1.1",
            "RAMSEY_POOL__NODES": json.dumps(listed),
            "RAMSEY_POOL__HEALTH_INTERVAL": "0.5",
            "RAMSEY_ENGINE__NUM_PARALLEL": "64",
            **({"RAMSEY_DATABASE__URL": database} if database else {}),
            **variables,
        }
        made.append(Gateway(number, folder, free_port(), own))
    running = Cluster(made, fakes)
    try:
        for gateway in made:
            gateway.start()
            await gateway.ready()
            running.http.append(httpx.AsyncClient(base_url=gateway.url, timeout=10))
        yield running
    finally:
        for client in running.http:
            await client.aclose()
        for gateway in made:
            if gateway.process is not None and gateway.process.poll() is None:
                gateway.kill()
        for node in fakes:
            node.kill()


def _node(token_delay_s: float, seed: int) -> NodeProcess:
    options = ["--model", OLD, "--model", NEW, "--slots", "64", "--token-delay-s", str(token_delay_s)]
    options += ["--seed", str(seed)]
    command = [sys.executable, "-m", "tests.support.fake_node", *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    return NodeProcess(json.loads(process.stdout.readline())["url"], process)

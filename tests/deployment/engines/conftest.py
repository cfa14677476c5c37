"""Pools over fake nodes on real sockets; each ends with nothing left behind."""

import asyncio
import contextlib
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tests.support.fake_node import FakeNode

from deployment.clock import SystemClock
from deployment.engines import Call, EnginePool, NodeState
from deployment.errors import RamseyError
from deployment.ollama_client import Done
from deployment.settings import Settings

RELEASE = "ramsey-model:v1.1"
QUICK: dict[str, Any] = {
    "health_interval": 0.2,
    "health_timeout": 1.0,
    "breaker_backoff": 0.1,
    "breaker_max_backoff": 0.4,
    "queue_timeout": 30.0,
}


def chat(text: str = "Hello", **more: Any) -> Call:
    """A call; `stream` and the fields of Call may be given."""
    stream = more.pop("stream", True)
    body = {"messages": [{"role": "user", "content": text}], "stream": stream, **more.pop("body", {})}
    return Call("/api/chat", RELEASE, body, **more)


async def ask(pool: EnginePool, call: Call) -> str:
    """The node that answered, to its end marker. Raises what the pool raises."""
    answer = await pool.open(call)
    try:
        events = [event async for event in answer]
    finally:
        await answer.aclose()
    assert isinstance(events[-1], Done)
    assert not any(isinstance(event, Done) for event in events[:-1])
    return answer.node


@dataclass
class Storm:
    """What many clients met."""

    served: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)


async def storm(pool: EnginePool, *, clients: int = 50, each: int = 4, stream: bool = True) -> Storm:
    """So many clients, each with so many requests, one after the other."""
    seen = Storm()

    async def client(number: int) -> None:
        for turn in range(each):
            try:
                seen.served[await ask(pool, chat(f"Client {number}, turn {turn}", stream=stream))] += 1
            except RamseyError as error:
                seen.failed[error.code] += 1

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number))
    assert seen.served.total() + seen.failed.total() == clients * each
    return seen


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 10.0) -> None:
    """Wait for something that must become true."""
    async with asyncio.timeout(seconds):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(0.01)


def states(pool: EnginePool) -> dict[str, NodeState]:
    return {view.name: view.state for view in pool.view()}


def healthy(pool: EnginePool, *names: str) -> bool:
    """Whether these (or all) nodes are healthy and have the release loaded."""
    views = [view for view in pool.view() if not names or view.name in names]
    return all(
        view.state is NodeState.HEALTHY and any(r.release == RELEASE and r.loaded for r in view.releases)
        for view in views
    )


def settings(directory: Path, nodes: Sequence[str], engine: dict[str, Any], **pool: Any) -> Settings:
    named = [{"name": chr(ord("a") + number), "url": url} for number, url in enumerate(nodes)]
    quick = {"first_token_timeout": 1.0, "token_timeout": 1.0, "connect_timeout": 1.0, "request_timeout": 30.0}
    given = pool.pop("members", named)
    return Settings(data_dir=directory, engine=quick | engine, pool={**QUICK, "nodes": given, **pool})


MakePool = Callable[..., AbstractAsyncContextManager[EnginePool]]


@pytest.fixture
def pool_over(tmp_path: Path) -> MakePool:
    """`async with pool_over(nodes, **pool_settings) as pool`: warm, and checked at its end for leftovers."""

    @asynccontextmanager
    async def make(
        nodes: Sequence[FakeNode | str],
        *,
        engine: dict[str, Any] | None = None,
        warm: bool = True,
        registry: CollectorRegistry | None = None,
        **pool_settings: Any,
    ) -> AsyncIterator[EnginePool]:
        urls = [node if isinstance(node, str) else node.url for node in nodes]
        before = asyncio.all_tasks()
        made = settings(tmp_path, urls, engine or {}, **pool_settings)
        async with EnginePool(made, SystemClock(), registry or CollectorRegistry()) as pool:
            if warm:
                pool.expect({RELEASE: None})
                await until(lambda: healthy(pool))
            yield pool
            await until(lambda: sum(view.in_flight for view in pool.view()) == 0)
            assert pool.waiting() == 0
        ours = ("load", "health", "discovery", "leases")
        assert not [t for t in asyncio.all_tasks() - before if t.get_name().startswith(ours)]
        for node in nodes:
            if isinstance(node, FakeNode):
                await until(lambda node=node: node.connections() == 0)  # type: ignore[misc]

    return make


@dataclass
class Process:
    """A fake node as a process of its own."""

    url: str
    process: asyncio.subprocess.Process

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        await self.process.wait()


@pytest.fixture
async def spawn() -> AsyncIterator[Callable[..., Awaitable[Process]]]:
    """`await spawn(port=0, token_delay_s=0.01)`: starts a fake node; ended after the test."""
    started: list[asyncio.subprocess.Process] = []

    async def start(port: int = 0, **options: Any) -> Process:
        flags = [part for key, value in options.items() for part in (f"--{key.replace('_', '-')}", str(value))]
        path = os.pathsep.join(["src", ".", os.environ.get("PYTHONPATH", "")])
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.support.fake_node",
            "--port",
            str(port),
            *flags,
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).resolve().parents[3],
            env={**os.environ, "PYTHONPATH": path},
        )
        started.append(process)
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 30)
        return Process(json.loads(line)["url"], process)

    yield start
    for process in started:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

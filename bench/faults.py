"""What callers see while nodes fail under load: `python -m bench.faults`, JSON out; runs in Ramsey's own environment.

Fifty clients ask a pool of three nodes (processes that can fail in every way that we know of nodes) without a pause.
Each fault strikes the first node, stays for a while, and ends. Then the nodes are drained, restarted and brought back
in turn under 10,000 requests, and a tenant with a hundred long requests meets one with a short one at a time.
"""

import asyncio
import json
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client import CollectorRegistry

from deployment.clock import SystemClock
from deployment.engines import Call, EnginePool, NodeState
from deployment.errors import RamseyError
from deployment.settings import Settings

RELEASE = "ramsey-model:v1.1"
CLIENTS = 50
SICK_S = 1.2
HANGS_S = 3.0  # silence is known only after a while
RETURN_S = 15.0
ROLLED = 10_000
QUICK = {"first_token_timeout": 0.5, "token_timeout": 0.5, "connect_timeout": 0.5, "request_timeout": 30.0}
PATIENT = QUICK | {"first_token_timeout": 10.0, "token_timeout": 10.0}  # where no node hangs
POOL: dict[str, Any] = {"health_interval": 0.5, "health_timeout": 0.5, "breaker_backoff": 0.5, "queue_timeout": 30.0}


class Machine:
    """A node as a process on a port of its own, which it keeps over restarts."""

    def __init__(self, **options: float) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._flags = [part for key, value in options.items() for part in (f"--{key.replace('_', '-')}", str(value))]
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *more: str) -> None:
        command = [sys.executable, "-m", "tests.support.fake_node", "--port", str(self.port), *self._flags, *more]
        self._process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        assert self._process.stdout is not None
        await asyncio.wait_for(self._process.stdout.readline(), 30)

    async def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)
            await self._process.wait()

    async def fail(self, *faults: dict[str, Any]) -> None:
        async with aiohttp.ClientSession() as session:
            for fault in faults:
                await session.post(self.url + "/_fake/faults", json=fault)

    async def heal(self) -> None:
        async with aiohttp.ClientSession() as session:
            await session.delete(self.url + "/_fake/faults")


@dataclass
class Load:
    """Clients that ask without a pause until told to stop, or until so many were asked."""

    pool: EnginePool
    stream: bool
    most: int | None = None
    asked: int = 0
    told: Counter[str] = field(default_factory=Counter)
    """Failures before the first byte, by code."""
    cut: int = 0
    """Streams that ended after their first byte: nobody else can go on with them."""
    last: dict[str, int] = field(default_factory=dict)
    """Number of the newest request that a node served."""
    going: bool = True
    messages: set[str] = field(default_factory=set)

    async def client(self, number: int) -> None:
        while self.going and (self.most is None or self.asked < self.most):
            self.asked += 1
            mine, begun = self.asked, False
            try:
                answer = await self.pool.open(_call(f"Client {number}", self.stream))
                begun = self.stream
                try:
                    async for _ in answer:
                        pass
                finally:
                    await answer.aclose()
            except RamseyError as error:
                self.messages.add(f"{error.code}: {error.message}")
                if begun:
                    self.cut += 1
                else:
                    self.told[error.code] += 1
                    await asyncio.sleep(0.01)
            else:
                self.last[answer.node] = mine


def _call(text: str, stream: bool, tenant: str = "default") -> Call:
    body = {"messages": [{"role": "user", "content": text}], "stream": stream}
    return Call("/api/chat", RELEASE, body, tenant=tenant)


def _serves(pool: EnginePool, name: str = "a") -> bool:
    view = pool.show(name)
    return view.state is NodeState.HEALTHY and any(
        r.release == RELEASE and r.present and r.loaded for r in view.releases
    )


async def _until(condition: Callable[[], bool], seconds: float) -> float | None:
    """Seconds until it holds; None when it never did."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            return None
        await asyncio.sleep(0.005)
    return time.monotonic() - began


async def _opened(folder: Path, nodes: list[Machine], engine: dict[str, float]) -> EnginePool:
    (folder / "nodes.json").unlink(missing_ok=True)
    named = [{"name": chr(ord("a") + i), "url": node.url, "slots": 4} for i, node in enumerate(nodes)]
    settings = Settings(data_dir=folder, engine=engine, pool={**POOL, "nodes": named})
    pool = EnginePool(settings, SystemClock(), CollectorRegistry())
    await pool.start()
    pool.expect({RELEASE: None})
    await _until(lambda: all(_serves(pool, view.name) for view in pool.view()), 20.0)
    return pool


# --- the matrix ----------------------------------------------------------------------------------------------

Strike = Callable[[list[Machine]], Awaitable[None]]


def _fault(kind: str, **more: Any) -> tuple[Strike, Strike]:
    async def strike(nodes: list[Machine]) -> None:
        await nodes[0].fail({"kind": kind, **more})

    async def heal(nodes: list[Machine]) -> None:
        await nodes[0].heal()

    return strike, heal


def _killed(count: int, *flags: str) -> tuple[Strike, Strike]:
    async def strike(nodes: list[Machine]) -> None:
        for node in nodes[:count]:
            await node.end()

    async def heal(nodes: list[Machine]) -> None:
        for node in nodes[:count]:
            await node.start(*flags)

    return strike, heal


async def _loses_model(nodes: list[Machine]) -> None:
    async with aiohttp.ClientSession() as session:
        await session.delete(nodes[0].url + "/api/delete", json={"model": RELEASE})


async def _model_back(nodes: list[Machine]) -> None:
    await nodes[0].end(signal.SIGTERM)
    await nodes[0].start()


MATRIX: dict[str, tuple[Strike, Strike]] = {
    "resets": _fault("reset"),
    "hangs before the first token": _fault("hang"),
    "hangs after the first token": _fault("hang", after=2),
    "resets after the first token": _fault("reset", after=2),
    "answers 500": _fault("error", status=500),
    "answers 503": _fault("busy"),
    "its runner crashes": _fault("crash"),
    "garbage": _fault("garbage"),
    "no end marker, no content": _fault("cut", after=0),
    "no end marker, in the middle": _fault("cut", after=2),
    "weights gone": _fault("lost_blob"),
    "model deleted": (_loses_model, _model_back),
    "kill -9, back at once": _killed(1),
    "kill -9, back, loads 1 s": _killed(1, "--load-s", "1"),
    "kill -9 of two of three": _killed(2),
    "kill -9 of all": _killed(3),
}


async def _case(folder: Path, nodes: list[Machine], name: str, stream: bool) -> dict[str, Any]:
    strike, heal = MATRIX[name]
    pool = await _opened(folder, nodes, QUICK)
    load, sick_s = Load(pool, stream), HANGS_S if name.startswith("hangs") else SICK_S
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(load.client(number))
            await asyncio.sleep(0.3)
            ejecting = asyncio.create_task(_until(lambda: not _serves(pool), sick_s))
            await strike(nodes)
            await asyncio.sleep(sick_s)
            ejected = await ejecting
            healed_at = load.asked
            await heal(nodes)
            returned = await _until(lambda: _serves(pool) and load.last.get("a", 0) > healed_at, RETURN_S)
            load.going = False
        left = pool.waiting() + sum(view.in_flight for view in pool.view())
        return {
            "fault": name,
            "stream": stream,
            "requests": load.asked,
            "told": load.told.total(),
            "codes": dict(load.told),
            "cut": load.cut,
            "eject_s": None if ejected is None else round(ejected, 2),
            "return_s": None if returned is None else round(returned, 2),
            "left": left,
        }
    finally:
        await pool.close()


# --- a roll, and fairness --------------------------------------------------------------------------------------


async def _roll(folder: Path, nodes: list[Machine]) -> dict[str, Any]:
    """Each node drained, restarted and brought back in turn, again and again until 10,000 were asked."""
    pool, rounds = await _opened(folder, nodes, PATIENT), 0
    load = Load(pool, stream=True, most=ROLLED)
    async with asyncio.TaskGroup() as group:
        clients = [group.create_task(load.client(number)) for number in range(CLIENTS)]
        while not all(client.done() for client in clients):
            name, node = "abc"[rounds % 3], nodes[rounds % 3]
            await pool.drain(name)
            if not await pool.drained(name, 30.0):
                raise RuntimeError(f"node {name} was not drained within 30 s")
            await node.end(signal.SIGTERM)
            await node.start()
            await pool.drain(name, draining=False)
            await _until(lambda name=name: _serves(pool, name), 10.0)  # type: ignore[misc]
            rounds += 1
    await pool.close()
    return {
        "requests": load.asked,
        "failed": load.told.total() + load.cut,
        "restarts": rounds,
        "why": sorted(load.messages),
    }


async def _fairness(folder: Path) -> dict[str, Any]:
    """How long a tenant waits for short answers, one at a time: alone, and beside a hundred long requests."""
    node = Machine(token_delay_s=0.004, tokens=10, slots=4)
    await node.start()
    pool = await _opened(folder, [node], PATIENT)

    async def ask(text: str, tenant: str) -> tuple[float, float]:
        """Milliseconds in the queue, and to the end of the answer."""
        began = time.monotonic()
        answer = await pool.open(_call(text, True, tenant))
        async for _ in answer:
            pass
        await answer.aclose()
        return answer.queue_ms, (time.monotonic() - began) * 1e3

    async def waits(count: int) -> dict[str, float]:
        found = [await ask("Short", "small") for _ in range(count)]
        queue, whole = (sorted(column)[int(0.95 * count)] for column in zip(*found, strict=True))
        return {"queue_p95_ms": round(queue, 1), "answer_p95_ms": round(whole, 1)}

    async def flood(stop: asyncio.Event) -> None:
        while not stop.is_set():
            await ask("Long " * 400, "large")

    alone, stop = await waits(100), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for _ in range(100):
            group.create_task(flood(stop))
        await _until(lambda: pool.waiting() > 80, 10.0)
        beside = await waits(100)
        stop.set()
    await pool.close()
    await node.end()
    return {"alone": alone, "beside": beside}


async def main(only: list[str]) -> dict[str, Any]:
    nodes = [Machine(token_delay_s=0.002, tokens=6) for _ in range(3)]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        try:
            await asyncio.gather(*(node.start() for node in nodes))
            rows = []
            for name in only or MATRIX:
                for stream in (True, False):
                    rows.append(await _case(folder, nodes, name, stream))
                    print(rows[-1], file=sys.stderr, flush=True)
            return {"matrix": rows, "roll": await _roll(folder, nodes), "fairness": await _fairness(folder)}
        finally:
            await asyncio.gather(*(node.end() for node in nodes))


if __name__ == "__main__":
    import logging

    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    print(json.dumps(asyncio.run(main(sys.argv[1:]))))

"""Two gateways as processes over one database, under load: traffic moves, and no request notices."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from tests.support.fake_node import FakeNode
from tests.support.stack import ROOT, clean_environment, free_port, wait_for

OLD, NEW = "ramsey-model:v1.0", "ramsey-model:v1.1"
CLIENTS, MOVES = 12, 6


@dataclass(frozen=True)
class Answer:
    gateway: int
    began: float
    ended: float
    release: str


def start(folder: Path, name: str, database_url: str, engine_url: str) -> tuple["subprocess.Popen[bytes]", str, Path]:
    """A gateway, its URL and its log. v1.1 comes onto the node from the Modelfile."""
    port, log = free_port(), folder / f"{name}.log"
    environment = clean_environment(
        RAMSEY_DATA_DIR=str(folder / name),
        RAMSEY_SERVER__PORT=str(port),
        RAMSEY_DATABASE__URL=database_url,
        RAMSEY_ENGINE__HOST=engine_url,
        RAMSEY_ENGINE__LAUNCH="false",
    )
    command = [sys.executable, "src/deployment/api.py"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    return process, f"http://127.0.0.1:{port}", log


@asynccontextmanager
async def gateways(folder: Path, database_url: str, engine_url: str) -> AsyncIterator[list[str]]:
    """Two processes."""
    started = [start(folder, name, database_url, engine_url) for name in ("a", "b")]
    try:
        for process, url, log in started:
            await asyncio.to_thread(wait_for, url + "/health", process, log)
        yield [url for _, url, _ in started]
    finally:
        for process, _, _ in started:
            process.send_signal(signal.SIGTERM)
        for process, _, _ in started:
            await asyncio.to_thread(process.wait, 20)


async def ask(http: httpx.AsyncClient, gateway: int, url: str, answers: list[Answer]) -> None:
    began = time.monotonic()
    answer = await http.post(url + "/generate", json={"prompt": "Hello", "stream": True})
    assert answer.status_code == 200, answer.text
    assert '"done":true' in answer.text
    release = answer.headers["x-ramsey-release"]
    assert f'"release":"{release}"' in answer.text
    answers.append(Answer(gateway, began, time.monotonic(), release))


async def move(http: httpx.AsyncClient, urls: list[str], weights: dict[str, float]) -> None:
    """Change the traffic on one gateway, and wait until the other has it too."""
    path = "/admin/traffic/ramsey-model"
    version = (await http.get(urls[0] + path)).json()["version"]
    shares = [{"release": release, "weight": weight} for release, weight in weights.items()]
    put = await http.put(urls[0] + path, json={"version": version, "shares": shares})
    assert put.status_code == 200, put.text
    wanted = {release: weight for release, weight in weights.items() if weight}
    async with asyncio.timeout(20):
        for url in urls:
            while (await http.get(url + "/models")).json()["models"][0]["traffic"] != wanted:
                await asyncio.sleep(0.02)
        while True:
            whole = (await http.get(urls[1] + "/admin/traffic")).json()
            if [row["traffic_version"] for row in whole["gateways"]] == [put.json()["version"]] * 2:
                return
            await asyncio.sleep(0.02)


async def test_traffic_moves_on_both_gateways_and_no_request_fails(database_url: str, tmp_path: Path) -> None:
    async with (
        FakeNode(models=(OLD,), slots=32, token_delay_s=0.002) as node,
        gateways(tmp_path, database_url, node.url) as urls,
        httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_connections=None)) as http,
    ):
        answers: list[Answer] = []
        over = asyncio.Event()

        async def client(number: int) -> None:
            while not over.is_set():
                await ask(http, number % 2, urls[number % 2], answers)

        clients = [asyncio.create_task(client(number)) for number in range(CLIENTS)]
        windows: list[tuple[float, float, set[str]]] = []
        for turn in range(MOVES):
            weights = [{OLD: 1.0, NEW: 0.0}, {OLD: 0.5, NEW: 0.5}, {OLD: 0.0, NEW: 1.0}][turn % 3]
            await move(http, urls, weights)
            settled, seen = time.monotonic(), len(answers)
            while len(answers) < seen + 2 * CLIENTS:
                await asyncio.sleep(0.02)
            windows.append((settled, time.monotonic(), {release for release, weight in weights.items() if weight}))
        over.set()
        await asyncio.gather(*clients)  # raises what any client saw fail
        assert len(answers) > MOVES * 2 * CLIENTS
        assert {answer.release for answer in answers} == {OLD, NEW}
        for answer in answers:  # who arrived while the traffic stood still had only what stood in the table
            for settled, until, allowed in windows:
                if settled <= answer.began <= until:
                    assert answer.release in allowed, answer

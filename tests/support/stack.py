"""The real thing as processes: the gateway's own script, with the embedded engine that it starts itself."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    """A port that nobody uses now, below those that outgoing connections take: one of them could be first."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@dataclass(frozen=True)
class Stack:
    """A running gateway and its engine."""

    url: str
    engine_url: str
    process: subprocess.Popen[bytes]
    log: Path
    data_dir: Path


def clean_environment(**variables: str) -> dict[str, str]:
    """The environment without settings of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAMSEY_", "OLLAMA_"))}
    return kept | variables


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 60.0) -> None:
    """Until `url` answers 200. Fails with the log when the process ends or the time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise AssertionError(f"{url} did not come up (exit status {process.poll()}):\n{log.read_text()[-4000:]}")


@contextmanager
def running_stack(tmp: Path, **variables: str) -> Iterator[Stack]:
    """`python src/deployment/api.py` with an engine of its own in a fresh data directory."""
    port, engine_port = free_port(), free_port()
    log = tmp / "gateway.log"
    environment = clean_environment(
        RAMSEY_DATA_DIR=str(tmp / "data"),
        RAMSEY_SERVER__PORT=str(port),
        RAMSEY_ENGINE__KIND="embedded",
        RAMSEY_ENGINE__HOST=f"http://127.0.0.1:{engine_port}",
        **variables,
    )
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "src/deployment/api.py"], cwd=ROOT, env=environment, stdout=output, stderr=output
        )
    stack = Stack(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{engine_port}", process, log, tmp / "data")
    try:
        wait_for(stack.url + "/health", process, log)
        yield stack
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

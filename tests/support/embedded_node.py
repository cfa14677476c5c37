"""Starts a real embedded node as a process of its own, for tests that need one."""

import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

MODELS = Path("models/ollama")
CHAT_TEMPLATE = (
    "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
)
PARAMETERS = {
    "stop": ["<|im_end|>", "<|im_start|>"],
    "temperature": 0,
    "repeat_penalty": 1.0,
    "num_ctx": 512,
    "num_predict": 160,
}


@contextmanager
def start_node(models_dir: Path, **flags: Any) -> Iterator[str]:
    """The URL of a node over `models_dir`; `flags` are NodeOptions' fields. Stopped at the end."""
    with node_process(models_dir, **flags) as (url, _):
        yield url


@contextmanager
def node_process(models_dir: Path, **flags: Any) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Like `start_node`, with the process."""
    port = flags.pop("port", None) or _free_port()
    flags = {"host": "127.0.0.1", "port": port, "models_dir": models_dir, "threads": 1, "drain_s": 5, **flags}
    command = [sys.executable, "-m", "deployment.embedded"]
    for key, value in flags.items():
        command += [f"--{key.replace('_', '-')}={value}"]
    path = os.pathsep.join(filter(None, [str(Path("src").resolve()), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_it_answers(url, process)
        yield url, process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def create_model(url: str, name: str = "ramsey-model:v1.1", gguf: Path | None = None, **fields: Any) -> str:
    """Upload a GGUF (v1.1 by default) and create a model from it; the blob's digest."""
    content = (gguf or MODELS / "ramsey-model-v1.1.gguf").read_bytes()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    with httpx.Client(base_url=url, timeout=60) as client:
        if client.head(f"/api/blobs/{digest}").status_code == 404:
            client.post(f"/api/blobs/{digest}", content=content).raise_for_status()
        body = {"model": name, "files": {"model.gguf": digest}, "stream": False, "parameters": PARAMETERS}
        client.post("/api/create", json=body | fields).raise_for_status()
    return digest


def _wait_until_it_answers(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            httpx.get(f"{url}/api/version", timeout=5).raise_for_status()
            return
        except httpx.HTTPError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

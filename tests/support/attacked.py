"""A gateway as its own process, set up as in production, for those who attack it; and what reached the node."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tests.support.background import background
from tests.support.fake_node import FakeModel, FakeNode
from tests.support.fake_node.faults import INFERENCE
from tests.support.stack import ROOT, clean_environment, free_port
from tests.support.token_issuer import AUDIENCE, TokenIssuer, token_issuer

from deployment.access import generate_key

_WAIT_S = 30.0
_SAID = ("prompt", "messages", "input")
_LOOK = "1"  # the prompt of a look at a node's health
_OWN = frozenset({"/", *(f"/api/{name}" for name in ("tags", "ps", "version", "status", "show"))}) | set(INFERENCE)
ABLE = ("completion", "tools", "insert", "thinking", "vision")


@dataclass(frozen=True)
class Target:
    """The gateway under attack, and who stands around it."""

    url: str
    node: FakeNode
    issuer: TokenIssuer
    process: "subprocess.Popen[bytes]"
    log: Path
    admin: str
    """A key that may do everything, in the tenant default."""
    user: str
    """A key that may ask, and nothing else."""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def ask(self, method: str, path: str, key: str | None = None, **more: Any) -> httpx.Response:
        """One request on a connection of its own."""
        headers = ({"authorization": f"Bearer {key}"} if key else {}) | more.pop("headers", {})
        with httpx.Client(base_url=self.url, timeout=_WAIT_S) as http:
            return http.request(method, path, headers=headers, **more)

    def made(self, path: str, body: dict[str, Any], key: str | None = None) -> dict[str, Any]:
        """What an administrator made."""
        answer = self.ask("POST", path, key or self.admin, json=body)
        assert answer.status_code == 201, answer.text
        told: dict[str, Any] = answer.json()
        return told

    def key(self, **wish: Any) -> str:
        """A new key."""
        return str(self.made("/admin/keys", {"name": "made for an attack", **wish})["key"])

    def send(self, data: bytes, *, end: bool = False) -> bytes:
        """Bytes to the socket, and all that comes back until the gateway closes, or has told one whole answer."""
        with socket.create_connection(("127.0.0.1", self.port), _WAIT_S) as wire:
            try:
                wire.sendall(data)
                if end:
                    wire.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # refused before all of it was taken: what was told is still to be read
            return read_answers(wire)

    def signed(self, method: str, path: str, *headers: bytes, body: bytes = b"") -> bytes:
        """The bytes of a request of the user that ends its connection."""
        length = [b"Content-Length: %d" % len(body)] if body else []
        own = [b"Host: llm.example", b"Connection: close", b"X-API-Key: " + self.user.encode()]
        lines = [f"{method} {path} HTTP/1.1".encode(), *own, *length, *headers]
        return b"\r\n".join(lines) + b"\r\n\r\n" + body

    def received(self) -> list[str]:
        """Paths of all that ever reached the node: questions, and what is not of those that the gateway asks itself."""
        return [path for path, _ in self._asked()] + [
            seen.path for seen in tuple(self.node.seen) if seen.path not in _OWN
        ]

    def sent(self) -> dict[str, Any]:
        """The last question that reached the node."""
        return self._asked()[-1][1]

    def _asked(self) -> list[tuple[str, dict[str, Any]]]:
        """Questions; not what the gateway itself asks to load a model, and to see whether it answers."""
        said = [(path, body, [body.get(name) for name in _SAID]) for path, body in tuple(self.node.bodies)]
        return [(path, body) for path, body, texts in said if any(texts) and texts[0] != _LOOK]

    def lines(self) -> list[str]:
        """The log's lines until now."""
        return self.log.read_text().splitlines()


def read_answers(wire: socket.socket) -> bytes:
    """Everything until the other side closes. A reset ends it too."""
    parts = []
    try:
        while part := wire.recv(65536):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


def until(met: Callable[[], object]) -> None:
    """Wait for what is to come."""
    end = time.monotonic() + 60
    while not met():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def status_of(answer: bytes) -> int:
    """The status of the (first) answer; 0 where there is none."""
    line = answer.partition(b"\r\n")[0].split(b" ")
    return int(line[1]) if len(line) > 1 and line[1].isdigit() else 0


@contextmanager
def attacked(folder: Path, **variables: str) -> Iterator[Target]:
    """Start one with a fake node and an issuer of tokens; stop all at the end. `variables` are settings."""
    with ExitStack() as stack:
        world = stack.enter_context(background())
        fake = FakeNode([FakeModel("ramsey-model:v1.1", capabilities=ABLE)])
        fake.bodies = deque()  # all of them, however many
        node, issuer = world.enter(fake), world.enter(token_issuer())
        admin, user = generate_key(), generate_key()
        keys = [
            {"name": "admin", "sha256": admin.sha256, "roles": ["admin"]},
            {"name": "user", "sha256": user.sha256, "roles": ["user"]},
        ]
        port, log = free_port(), folder / "gateway.log"
        environment = clean_environment(
            **{
                "RAMSEY_PROFILE": "production",
                "RAMSEY_DATA_DIR": str(folder / "data"),
                "RAMSEY_SERVER__PORT": str(port),
                "RAMSEY_ENGINE__HOST": node.url,
                "RAMSEY_ENGINE__LAUNCH": "false",
                "RAMSEY_MODEL__MODELFILE": "none",
                "RAMSEY_MODEL__RELEASE": "v1.1",
                "RAMSEY_ACCESS__KEYS": json.dumps(keys),
                "RAMSEY_ACCESS__OIDC": json.dumps([{"issuer": issuer.url, "audience": [AUDIENCE]}]),
                **variables,
            }
        )
        output = stack.enter_context(log.open("wb"))
        process = subprocess.Popen(
            [sys.executable, "src/deployment/api.py"], cwd=ROOT, env=environment, stdout=output, stderr=output
        )
        stack.callback(_stop, process)
        url = f"{'https' if 'RAMSEY_SERVER__TLS_CERT' in variables else 'http'}://127.0.0.1:{port}"
        _wait_for(url + "/health", process, log)
        yield Target(url, node, issuer, process, log, admin.key, user.key)


def _wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, verify=False, timeout=5).status_code == 200:  # whose certificate it is, is no matter here
                return
        time.sleep(0.05)
    raise AssertionError(f"it did not come up (exit status {process.poll()}):\n{log.read_text()[-4000:]}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

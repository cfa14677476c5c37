"""The machine: cores, processes that we start and stop, and what they used, from /proc."""

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / ".bench"
RUN = BENCH / "run"
PYTHON = str(BENCH / "venv/bin/python")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def cores() -> tuple[set[int], set[int], set[int]]:
    """The cores of the contender, of the upstream and of the load generator; the last two may share one."""
    mine = sorted(os.sched_getaffinity(0))
    first, second = mine[0], mine[1 % len(mine)]
    return {first}, {second}, {mine[2] if len(mine) > 2 else second}


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Process:
    """A process group that we started, on cores of its own. Ends with `stop`."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        on: set[int],
        environment: Mapping[str, str] | None = None,
        folder: Path = ROOT,
    ) -> None:
        RUN.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.log = RUN / f"{name.replace(' ', '-').replace('/', '-')}.log"
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAMSEY_", "OLLAMA_"))}
        with self.log.open("wb") as output:
            self._popen = subprocess.Popen(
                command,
                cwd=folder,
                env={**kept, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=lambda: os.sched_setaffinity(0, on),
            )
        self.pid = self._popen.pid

    def wait_until(self, url: str, headers: Mapping[str, str] | None = None, seconds: float = 90.0) -> float:
        """Wait until `url` answers 200; the seconds that it took. RuntimeError with the log when it never does."""
        began = time.monotonic()
        request = urllib.request.Request(url, headers=dict(headers or {}))
        while time.monotonic() - began < seconds and self._popen.poll() is None:
            try:
                with urllib.request.urlopen(request, timeout=5):
                    return time.monotonic() - began
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise RuntimeError(f"{self.name} did not come up at {url}:\n{self.tail()}")

    def wait(self, seconds: float) -> None:
        """Until it ends by itself."""
        self._popen.wait(seconds)

    def tail(self) -> str:
        """The end of what it wrote."""
        return self.log.read_text(errors="replace")[-3000:]

    def stop(self) -> None:
        """End the whole group."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.pid, number)
                self._popen.wait(8)
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    try:
        children = [int(p) for f in Path(f"/proc/{pid}/task").glob("*/children") for p in f.read_text().split()]
    except OSError:
        return []
    return [pid] + [grandchild for child in children for grandchild in tree(child)]


def cpu_seconds(pid: int) -> float:
    """CPU time of a process tree so far, user and system."""
    total = 0
    for one in tree(pid):
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def rss_mb(pid: int) -> float:
    """Resident memory of a process tree, in MB (10^6 bytes)."""
    pages = 0
    for one in tree(pid):
        try:
            pages += int(Path(f"/proc/{one}/statm").read_text().split()[1])
        except OSError:
            continue
    return pages * _PAGE / 1e6


def describe() -> dict[str, object]:
    """What this machine is, for the report."""
    names = [
        line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "name" in line
    ]
    return {
        "cpu": names[0] if names else "unknown",
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 2),
        "kernel": os.uname().release,
    }

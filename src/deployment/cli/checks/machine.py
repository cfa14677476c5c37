"""The machine: its interpreter, clock, memory, disk, libraries."""

import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from deployment.cli.checks.finding import Finding, logs, weights_size
from deployment.clock import SystemClock
from deployment.settings import EngineKind, Settings

OLDEST_PYTHON = (3, 11)
_GIB = 1 << 30
_LIBRARIES = {"libgomp": "libgomp1", "libstdc++": "libstdc++6"}


def python() -> list[Finding]:
    """The interpreter."""
    text = f"{sys.version.split()[0]} ({sys.executable})"
    if sys.version_info < OLDEST_PYTHON:
        return [Finding("python", "wrong", text, "Ramsey needs 3.11 or newer: make PYTHON=python3.12 up")]
    return [Finding("python", "ok", text)]


def clock() -> list[Finding]:
    """A clock that is behind this very program is wrong; tokens and logs depend on it."""
    now = SystemClock().now()
    built = datetime.fromtimestamp(Path(__file__).stat().st_mtime, UTC)
    if now < built:
        mend = "Set it: timedatectl set-ntp true"
        return [Finding("clock", "wrong", f"{now:%Y-%m-%d %H:%M} UTC is before this program was installed", mend)]
    return [Finding("clock", "ok", f"{now:%Y-%m-%d %H:%M} UTC")]


def memory(settings: Settings) -> list[Finding]:
    """Room for the weights, which are held in memory, and for each slot's context."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return []  # not Linux
    needed = int(weights_size(settings) * 1.2) + _GIB // 2
    text = f"{free / _GIB:.1f} GiB free, about {needed / _GIB:.1f} GiB needed"
    if free < needed:
        return [Finding("memory", "warning", text, "Take a smaller model or quantisation, or end other programs.")]
    return [Finding("memory", "ok", text)]


def disk(settings: Settings) -> list[Finding]:
    """The data directory and its logs can be written, and the models fit beside it."""
    for folder in (settings.data_dir, logs(settings)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder):
                pass
        except OSError as error:
            reason = f"{folder} cannot be written: {error.strerror or error}"
            return [Finding("disk", "wrong", reason, "Mend its rights, or set RAMSEY_DATA_DIR.")]
    place = settings.models_dir if settings.models_dir.is_dir() else settings.data_dir
    free = shutil.disk_usage(place).free
    needed = 2 * weights_size(settings) + _GIB // 4  # an Ollama writes uploaded weights a second time
    text = f"{free / _GIB:.1f} GiB free at {place}, {needed / _GIB:.1f} GiB needed at most"
    if free < needed:
        return [Finding("disk", "warning", text, "Free some space, or set RAMSEY_ENGINE__MODELS_DIR to a larger disk.")]
    return [Finding("disk", "ok", text)]


def embedded_engine(settings: Settings) -> list[Finding]:
    """llama.cpp can be loaded: its wheel needs two libraries that slim systems lack."""
    if settings.engine.kind is EngineKind.OLLAMA or settings.pool.nodes:
        return []
    tried = subprocess.run([sys.executable, "-c", "import xllamacpp"], capture_output=True, text=True, check=False)
    if tried.returncode == 0:
        return [Finding("llama.cpp", "ok", "loads")]
    said = (tried.stderr.strip().splitlines() or [f"ended with status {tried.returncode}"])[-1]
    missing = [package for library, package in _LIBRARIES.items() if library in said]
    mend = f"sudo apt-get install {' '.join(missing)}" if missing else "Install again: make clean setup"
    return [Finding("llama.cpp", "wrong", said, mend)]

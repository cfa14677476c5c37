"""Memory of the gateway after ever more requests: it must not grow with them."""

from typing import Any

from bench.contenders import ramsey
from bench.lab import Lab, say
from bench.machine import rss_mb
from bench.report import Table, number, verdict

AT = (1_000, 10_000, 100_000, 200_000, 300_000, 400_000)
FROM = 100_000  # by then what is remembered of a bounded number of requests (answers to vote on, sessions) is full
MOST_GROWTH = 1.03
MOST_MB = 150.0


def run(lab: Lab) -> dict[str, Any]:
    """No two requests are the same, and every tenth is a stream: what is kept for a request would add up."""
    with lab.running(ramsey, lab.upstream) as contender:
        if contender is None:
            return {"rows": []}
        rows, done, failed = [{"requests": 0, "rss_mb": round(rss_mb(contender.pid), 1)}], 0, 0
        for target in AT:
            streams = (target - done) // 10
            more = {"connections": 32, "seconds": 300.0}
            whole = lab.load(contender, requests=target - done - streams, **more)
            ask = {"stream": True, "max_tokens": 1}
            streamed = lab.load(contender, ask, requests=streams, **more)
            failed += whole["failed"] + streamed["failed"]
            done = target
            rows.append({"requests": done, "rss_mb": round(rss_mb(contender.pid), 1)})
            say(f"  after {done:,}: {rows[-1]['rss_mb']} MB")
        return {"rows": rows, "failed": failed}


def tables(figures: dict[str, Any]) -> list[Table]:
    rows = figures["rows"]
    shown = [(f"{row['requests']:,}", number(row["rss_mb"])) for row in rows]
    note = ""
    if len(rows) > 2:
        base, last = next(row["rss_mb"] for row in rows if row["requests"] == FROM), rows[-1]["rss_mb"]
        note = (
            f"Flat (≤ {MOST_GROWTH:g} × from {FROM:,} to {AT[-1]:,}): {verdict(last <= base * MOST_GROWTH)}; "
            f"≤ {MOST_MB:g} MB: {verdict(last <= MOST_MB)}; {figures['failed']} requests failed."
        )
    return [Table("Memory of Ramsey's process", ("requests", "MB"), shown, note)]


def plot(axes: Any, figures: dict[str, Any]) -> None:
    rows = figures["rows"]
    axes.plot([row["requests"] for row in rows], [row["rss_mb"] for row in rows], marker="o", color="#c2410c")
    axes.set_ylim(0, max(MOST_MB, *(row["rss_mb"] for row in rows)) * 1.1)
    axes.set_xlabel("requests")
    axes.set_title("Ramsey's memory, MB")

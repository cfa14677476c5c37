"""Streams: CPU for each relayed token, and what is added to the time to first token at half load."""

from typing import Any

from bench.contenders import PEERS, Contender
from bench.lab import Lab, say
from bench.report import Table, number, verdict

STREAMS, TOKENS, PER_SECOND = 100, 400, 100
SHORT = 20  # tokens of a stream under half load
PROBE_RATE, PROBE_SECONDS = 20.0, 3.0
MOST_SECONDS, SAMPLES = 8.0, 3000
AIMS = {"cpu_us": 40.0, "p50_ms": 1.0, "p99_ms": 5.0}


def run(lab: Lab) -> dict[str, Any]:
    """Each contender alone: first 100 long streams, then short ones that keep its core half busy."""
    figures: dict[str, Any] = {"streams": STREAMS, "tokens_per_second": PER_SECOND, "contenders": {}}
    for make in PEERS.values():
        with lab.running(make, lab.upstream) as contender:
            if contender is not None:
                figures["contenders"][contender.name] = _measure(lab, contender)
    return figures


def _measure(lab: Lab, contender: Contender) -> dict[str, Any]:
    lab.load(contender, connections=8, seconds=1.0)
    ask = {"stream": True, "max_tokens": TOKENS}
    long = lab.load(contender, ask, connections=STREAMS, requests=STREAMS, ramp=1.0, seconds=40.0)
    lasted = TOKENS / PER_SECOND
    figures = {
        "cpu_us_per_token": round(long["cpu_s"] / max(long["tokens"], 1) * 1e6, 1),
        "tokens": long["tokens"],
        "failed": long["failed"],
        "stretched": round(long["latency_ms"].get("p50", 0.0) / lasted / 1e3, 2),
        "generator_busy": long["generator_busy"],
    }
    say(f"  {contender.name}: {figures['cpu_us_per_token']} µs a token")
    return figures | {"half_load": _half_load(lab, contender)}


def _half_load(lab: Lab, contender: Contender) -> dict[str, Any]:
    """Short streams at the rate that takes half of a core; the same at once without the gateway."""
    ask = {"stream": True, "max_tokens": SHORT}
    probe = lab.load(contender, ask, rate=PROBE_RATE, seconds=PROBE_SECONDS)
    if not probe["requests"]:
        return {"failed": probe["failed"]}
    rate = 0.5 / (probe["cpu_s"] / probe["requests"])
    # CPU a stream falls when there is more to do at once: correct the rate by what it really took.
    check = lab.load(contender, ask, rate=rate, seconds=2.0)
    rate *= min(2.0, 0.5 / max(check["cpu_s"] / check["seconds"], 0.05))
    seconds = min(MOST_SECONDS, max(4.0, SAMPLES / rate))
    through = lab.load(contender, ask, rate=rate, seconds=seconds)
    direct = lab.load(lab.direct(), ask, rate=rate, seconds=min(seconds, 4.0))
    added = {
        f"{q}_ms": round(through["first_ms"][q] - direct["first_ms"][q], 3)
        for q in ("p50", "p90", "p99")
        if q in through["first_ms"] and q in direct["first_ms"]
    }
    return {
        "streams_per_second": round(rate, 1),
        "busy": round(through["cpu_s"] / through["seconds"], 2),
        "through_ms": through["first_ms"],
        "direct_ms": direct["first_ms"],
        "added": added,
        "failed": through["failed"],
    }


def tables(figures: dict[str, Any]) -> list[Table]:
    rows, halves = [], []
    own = figures["contenders"].get("Ramsey")
    for name, c in figures["contenders"].items():
        ratio = c["cpu_us_per_token"] / own["cpu_us_per_token"] if own and own["cpu_us_per_token"] else None
        rows.append(
            (
                name,
                number(c["cpu_us_per_token"]),
                number(ratio, 2) + " ×",
                number(c["stretched"], 2),
                number(c["failed"], 0),
            )
        )
        half = c["half_load"]
        added = half.get("added", {})
        halves.append(
            (
                name,
                number(half.get("streams_per_second"), 0),
                number(half.get("busy"), 2),
                number(added.get("p50_ms"), 2),
                number(added.get("p90_ms"), 2),
                number(added.get("p99_ms"), 2),
                number(half.get("failed"), 0),
            )
        )
    note = "slower: how much longer a stream took than the engine needed for it."
    if own:
        note += f" ≤ {AIMS['cpu_us']:g} µs: {verdict(own['cpu_us_per_token'] <= AIMS['cpu_us'])}."
    first = Table(
        f"Relaying {figures['streams']} streams of {figures['tokens_per_second']} tokens/s",
        ("", "CPU µs/token", "of Ramsey's", "slower", "failed"),
        rows,
        note,
    )
    half_note = f"Streams of {SHORT} tokens arrive at random, so many that they take half of the contender's core."
    if own and (added := own["half_load"].get("added")):
        reached = added["p50_ms"] <= AIMS["p50_ms"], added["p99_ms"] <= AIMS["p99_ms"]
        half_note += f" Median ≤ 1 ms: {verdict(reached[0])}; p99 ≤ 5 ms: {verdict(reached[1])}."
    header = ("", "streams/s", "core busy", "median ms", "p90 ms", "p99 ms", "failed")
    return [first, Table("Added to the time to first token, at half load of each", header, halves, half_note)]


def plot(axes: Any, figures: dict[str, Any]) -> None:
    of = figures["contenders"]
    names = list(of)
    values = [of[name]["cpu_us_per_token"] for name in names]
    colours = ["#c2410c" if name == "Ramsey" else "#94a3b8" for name in names]
    bars = axes.barh(names, values, color=colours)
    axes.bar_label(bars, labels=[f"{value:,.0f}" for value in values], padding=3)
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_title("CPU a relayed token, µs")

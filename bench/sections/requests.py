"""Requests a second and CPU a request: chat completions, not streamed, over 32 connections."""

from contextlib import ExitStack
from statistics import median
from typing import Any

from bench.contenders import PEERS, Contender
from bench.lab import Lab, say
from bench.report import Table, number, times, verdict

CONNECTIONS = 32
ROUNDS = 3
SECONDS = 4.0


def run(lab: Lab) -> dict[str, Any]:
    """All run at once, one is loaded at a time, in turns: what disturbs the machine meets all of them."""
    turns: dict[str, list[dict[str, Any]]] = {}
    ready: dict[str, float] = {}
    with ExitStack() as stack:
        running: list[Contender] = []
        for make in PEERS.values():
            if (contender := stack.enter_context(lab.running(make, lab.upstream))) is not None:
                running.append(contender)
                ready[contender.name] = contender.ready_s
        for contender in running:
            lab.load(contender, connections=CONNECTIONS, seconds=1.0)  # warms connections and compilers
        for _ in range(ROUNDS):
            for contender in running:
                result = lab.load(contender, connections=CONNECTIONS, seconds=SECONDS, warmup=0.5)
                turns.setdefault(contender.name, []).append(result)
                say(f"  {contender.name}: {result['per_second']:.0f}/s")
        direct = lab.load(lab.direct(), connections=CONNECTIONS, seconds=2.0, warmup=0.5)
    return {
        "connections": CONNECTIONS,
        "contenders": {name: _summary(results) | {"ready_s": ready[name]} for name, results in turns.items()},
        "direct_per_second": direct["per_second"],
    }


def _summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    served, failed = sum(r["requests"] for r in results), sum(r["failed"] for r in results)
    return {
        "per_second": round(median(r["per_second"] for r in results), 1),
        "per_second_each": [r["per_second"] for r in results],
        "cpu_ms_per_request": round(sum(r["cpu_s"] for r in results) / max(served, 1) * 1e3, 4),
        "p50_ms": median(r["latency_ms"].get("p50", 0) for r in results),
        "p99_ms": median(r["latency_ms"].get("p99", 0) for r in results),
        "rss_mb": results[-1]["rss_mb"],
        "requests": served,
        "failed": failed,
        "generator_busy": max(r["generator_busy"] for r in results),
        "samples": [sample for r in results for sample in r["samples"]][:3],
    }


def tables(figures: dict[str, Any]) -> list[Table]:
    of = figures["contenders"]
    own = of.get("Ramsey")
    rows = []
    for name, c in of.items():
        faster = own["per_second"] / c["per_second"] if own and c["per_second"] else None
        leaner = c["cpu_ms_per_request"] / own["cpu_ms_per_request"] if own else None
        rows.append(
            (
                name,
                number(c["per_second"], 0),
                times(faster),
                number(c["cpu_ms_per_request"], 3),
                times(leaner),
                number(c["p50_ms"]),
                number(c["p99_ms"]),
                number(c["rss_mb"], 0),
                number(c["ready_s"]),
                number(c["failed"], 0),
            )
        )
    header = ("", "requests/s", "Ramsey is", "CPU ms", "uses", "p50 ms", "p99 ms", "MB", "ready s", "failed")
    return [Table(f"Requests, {figures['connections']} connections", header, rows, _note(figures))]


def _note(figures: dict[str, Any]) -> str:
    of = figures["contenders"]
    aims = []
    for peer, aim in (("LiteLLM", 20.0), ("Portkey", 2.5)):
        if "Ramsey" in of and peer in of:
            own, its = of["Ramsey"], of[peer]
            ratio = own["per_second"] / max(its["per_second"], 0.1)
            aims.append(f"≥ {aim:g} × {peer}: {verdict(ratio >= aim)} ({ratio:.1f})")
    aims.append(f"The upstream alone: {figures['direct_per_second']:,.0f}/s.")
    return "; ".join(aims)


def plot(axes: Any, figures: dict[str, Any]) -> None:
    of = figures["contenders"]
    names = list(of)
    bars = axes.barh(names, [of[name]["per_second"] for name in names], color=_colours(names))
    axes.bar_label(bars, labels=[f"{of[name]['per_second']:,.0f}" for name in names], padding=3)
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.set_title("Requests a second, one core")
    axes.margins(x=0.2)


def _colours(names: list[str]) -> list[str]:
    return ["#c2410c" if name.startswith("Ramsey") else "#94a3b8" for name in names]

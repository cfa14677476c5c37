"""Which server, loop and client library: the same small proxy in each combination, and Ramsey on each server."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Any

from bench.contenders import Contender, proxy, ramsey
from bench.lab import Lab, say
from bench.report import Table, number, times

ROUNDS, SECONDS = 2, 2.5


def _stacks() -> dict[str, Callable[[str], Contender]]:
    made: dict[str, Callable[[str], Contender]] = {}
    for app, client in (("httpx_app", "FastAPI, httpx"), ("aiohttp_app", "FastAPI, aiohttp")):
        name = f"{client}; uvicorn, uvloop"
        made[name] = partial(proxy, app=app, name=name)
    for server in ("uvloop", "asyncio", "granian"):
        name = f"bare ASGI, aiohttp; {_server(server)}"
        made[name] = partial(proxy, app="bare_app", loop=server, name=name)
        name = f"Ramsey; {_server(server)}"
        made[name] = partial(ramsey, name=name, server=server)
    return made


def _server(loop: str) -> str:
    return loop if loop == "granian" else f"uvicorn, {loop}"


def run(lab: Lab) -> dict[str, Any]:
    """As in `requests`: all run, one is loaded at a time, in turns."""
    turns: dict[str, list[dict[str, Any]]] = {}
    with ExitStack() as stack:
        running: list[tuple[str, Contender]] = []
        for name, make in _stacks().items():
            if (contender := stack.enter_context(lab.running(make, lab.upstream))) is not None:
                lab.load(contender, seconds=0.5)
                running.append((name, contender))
        for _ in range(ROUNDS):
            for name, contender in running:
                turns.setdefault(name, []).append(lab.load(contender, seconds=SECONDS, warmup=0.3))
                say(f"  {name}: {turns[name][-1]['per_second']:.0f}/s")
    return {
        name: {
            "per_second": median(r["per_second"] for r in results),
            "cpu_ms": round(sum(r["cpu_s"] for r in results) / max(sum(r["requests"] for r in results), 1) * 1e3, 4),
            "failed": sum(r["failed"] for r in results),
        }
        for name, results in turns.items()
    }


def tables(figures: dict[str, Any]) -> list[Table]:
    least = min((one["cpu_ms"] for one in figures.values()), default=1.0)
    rows = [
        (name, number(one["per_second"], 0), number(one["cpu_ms"], 3), times(one["cpu_ms"] / least))
        for name, one in sorted(figures.items(), key=lambda item: item[1]["cpu_ms"])
    ]
    return [Table("Server, loop, client library", ("", "requests/s", "CPU ms", "of the best"), rows)]

"""Rollouts with real processes on this machine: `python -m bench.rollouts [moving|back|errors|slow|wrong …]`.

moving: 20 rollouts back and forth under 50 streaming callers; errors, slow: how soon a bad release is taken back, and
how many requests it harmed. Nodes are fake ones whose second release fails or is slow on demand; gateways, database
and wire are the product's. Results go into bench/results/rollouts.json.
"""

import asyncio
import hashlib
import itertools
import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
from tests.support.cluster import NEW, OLD, Cluster, cluster
from tests.support.postgres_server import postgres_server
from tests.support.stack import ROOT, running_stack

RESULTS = Path(__file__).parent / "results" / "rollouts.json"
SEED = 20261125
CALLERS, ROLLOUTS, REQUESTS, BACKS = 50, 20, 20_000, 15
TRIALS, RATE, SHARE, MOST_S = 8, 10.0, 0.1, 300.0
CANARY = {"steps": [{"weight": "25%", "min_time": "1s"}, {"weight": "100%", "min_time": "1s"}], "keep_warm": "1s"}


@dataclass
class Seen:
    """One request, as its caller saw it. Times in epoch seconds."""

    gateway: int
    sent: float
    first: float | None = None
    release: str = ""
    failed: str = ""


@dataclass
class Callers:
    """They ask until they are told to stop."""

    urls: list[str]
    seen: list[Seen] = field(default_factory=list)
    going: bool = True

    async def one(self, number: int, session: aiohttp.ClientSession) -> None:
        """A caller who asks again when the answer has ended."""
        for count in itertools.count():
            if not self.going:
                return
            await self.ask(session, number % len(self.urls), f"Hello {number} {count}")

    async def ask(self, session: aiohttp.ClientSession, gateway: int, prompt: str) -> None:
        """One streamed answer to its end."""
        seen = Seen(gateway, time.time())
        self.seen.append(seen)
        body = {"prompt": prompt, "stream": True, "temperature": 1}
        try:
            async with session.post(f"{self.urls[gateway]}/generate", json=body) as answer:
                seen.release = answer.headers.get("x-ramsey-release", "")
                ended = False
                async for line in answer.content:
                    seen.first = seen.first or time.time()
                    if line.startswith(b"event: error"):
                        seen.failed = "an error in the stream"
                    ended = ended or b'"done":true' in line.replace(b" ", b"")
                if answer.status != 200:
                    seen.failed = f"status {answer.status}"
                elif not ended:
                    seen.failed = seen.failed or "no end marker"
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            seen.failed = type(error).__name__


# --- back and forth --------------------------------------------------------------------------------------------


async def moving() -> dict[str, Any]:
    with postgres_server() as database, tempfile.TemporaryDirectory() as folder:
        async with cluster(Path(folder), database=database, token_delay_s=0.02) as two:
            callers = Callers([gateway.url for gateway in two.gateways])
            began = time.time()
            connector = aiohttp.TCPConnector(limit=0)
            async with aiohttp.ClientSession(connector=connector) as session:
                tasks = [asyncio.create_task(callers.one(number, session)) for number in range(CALLERS)]
                ends, backs = await _back_and_forth(two, callers)
                callers.going = False
                await asyncio.gather(*tasks)
            return _moved(two, callers.seen, time.time() - began, ends, backs)


async def _back_and_forth(two: Cluster, callers: Callers) -> tuple[list[str], list[tuple[float, str]]]:
    """Every fourth is taken back by hand while it bakes; goes on until there were requests enough."""
    ends, backs, there = [], [], OLD
    while len(ends) < ROLLOUTS or len(callers.seen) < REQUESTS:
        number = len(ends)
        target = NEW if there == OLD else OLD
        kind = CANARY if number % 2 else {"strategy": "blue-green", "keep_warm": "5s"}
        plan = {"min_requests": 0, "probes": {"rate": 0}} | kind
        made = await two.deploy(number % 2, target.partition(":")[2], **plan)
        if number % 4 == 0:
            await two.until(1, made["id"], "bake", seconds=MOST_S)
            backs.append((time.time(), there))
            await two.http[1].post("/admin/rollouts/rollback", json={"reason": "for the bench"})
        ended = await two.until(0, made["id"], "done", "rolled_back", "refused", "aborted", seconds=MOST_S)
        ends.append(ended["phase"])
        there = target if ended["phase"] == "done" else there
        print(f"  {number + 1}: {ended['phase']}, {len(callers.seen)} requests", file=sys.stderr, flush=True)
    return ends, backs


def _moved(
    two: Cluster, seen: list[Seen], seconds: float, ends: list[str], backs: list[tuple[float, str]]
) -> dict[str, Any]:
    tables = [list(_tables(gateway.log)) for gateway in two.gateways]
    wrong = [each for each in seen if not each.failed and not _had_traffic(each, tables[each.gateway])]
    return {
        "rollouts": len(ends),
        "ended": {phase: ends.count(phase) for phase in sorted(set(ends))},
        "callers": CALLERS,
        "requests": len(seen),
        "failed": sum(bool(each.failed) for each in seen),
        "failures": sorted({each.failed for each in seen if each.failed}),
        "answered by a release without traffic": len(wrong),
        "seconds": round(seconds, 1),
        "rollbacks": _lags(two, backs),
    }


def _lags(two: Cluster, backs: list[tuple[float, str]]) -> dict[str, Any]:
    """From the command until the last gateway has it, in seconds."""
    lags = []
    for at, release in backs:
        tables = [list(_tables(gateway.log)) for gateway in two.gateways]
        swaps = [next(when for when, table in log if when >= at and table.get(release) == 1) for log in tables]
        lags.append(max(swaps) - at)
    seconds = {"median": round(statistics.median(lags), 3), "most": round(max(lags), 3)}
    return {"to the last gateway, seconds": seconds}


def _tables(log: Path) -> Iterable[tuple[float, dict[str, float]]]:
    """When a gateway took which weights in, by its own log."""
    for line in log.read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("event") == "traffic":
            at = entry.get("timestamp") or entry.get("at") or entry.get("time")
            yield datetime.fromisoformat(at).timestamp(), entry["weights"]


def _had_traffic(seen: Seen, tables: list[tuple[float, dict[str, float]]]) -> bool:
    """Whether its release had traffic in that gateway's table at some moment from the sending to the first token."""
    until = seen.first or seen.sent
    for number, (begin, weights) in enumerate(tables):
        end = tables[number + 1][0] if number + 1 < len(tables) else float("inf")
        if begin <= until + 0.005 and end >= seen.sent and weights.get(seen.release, 0) > 0:
            return True
    return False


async def back() -> dict[str, Any]:
    """Rollbacks of a warm release, one after another, nobody else asking."""
    with postgres_server() as database, tempfile.TemporaryDirectory() as folder:
        async with cluster(Path(folder), database=database) as two:
            backs = []
            for _ in range(BACKS):
                made = await two.deploy(0, "v1.2", strategy="blue-green", probes={"rate": 0})
                await two.until(1, made["id"], "bake", seconds=MOST_S)
                backs.append((time.time(), OLD))
                await two.http[1].post("/admin/rollouts/rollback", json={})
                await two.reached({OLD: 1.0})
            return {"rollbacks": BACKS, "gateways": 2} | _lags(two, backs)


# --- bad releases ----------------------------------------------------------------------------------------------

ERRORS = {"kind": "error", "after": 2, "probability": 0.1, "model": NEW}
SLOW = {"kind": "slow", "seconds": 0.06, "model": NEW}


async def taken_back(fault: dict[str, Any]) -> dict[str, Any]:
    """Some trials beside each other, each with a gateway, a node and a database of its own."""
    with tempfile.TemporaryDirectory() as folder:
        trials = await asyncio.gather(*(_trial(Path(folder) / str(n), fault, SEED + n) for n in range(TRIALS)))
    seconds = sorted(trial["seconds"] for trial in trials)
    return {
        "requests a second": RATE,
        "share": SHARE,
        "trials": len(trials),
        "ended": sorted({trial["phase"] for trial in trials}),
        "seconds": seconds,
        "median seconds": statistics.median(seconds),
        "harmed, as the product counts": sorted(trial["harmed"] for trial in trials),
        "failed, as callers saw": sorted(trial["failed"] for trial in trials),
        "why": sorted({trial["why"] for trial in trials}),
    }


async def _trial(folder: Path, fault: dict[str, Any], seed: int) -> dict[str, Any]:
    folder.mkdir()  # noqa: ASYNC240 - once
    rng = random.Random(seed)
    async with (
        cluster(folder, gateways=1, nodes=1, token_delay_s=0.02, seed=seed) as one,
        aiohttp.ClientSession() as session,
    ):
        callers = Callers([one.gateways[0].url])
        running: set[asyncio.Task[None]] = set()

        async def arrive() -> None:
            for count in itertools.count():
                task = asyncio.create_task(callers.ask(session, 0, f"Hello {count}"))
                running.add(task)
                task.add_done_callback(running.discard)
                await asyncio.sleep(rng.expovariate(RATE))

        arriving = asyncio.create_task(arrive())
        await asyncio.sleep(2)
        await session.post(f"{one.nodes[0].url}/_fake/faults", json=[fault])
        plan = {"steps": [{"weight": SHARE, "min_time": "1h"}, 1.0], "deadline": "2h", "probes": {"rate": 0}}
        made = await one.deploy(0, "v1.2", **plan)
        shown = await one.until(0, made["id"], "steps")
        began = datetime.fromisoformat(shown["since"])
        ended = await one.until(0, made["id"], "rolled_back", "refused", "aborted", "done", seconds=MOST_S)
        arriving.cancel()
        await asyncio.gather(arriving, *running, return_exceptions=True)
        await asyncio.sleep(0)
        took = (datetime.fromisoformat(ended["ended_at"]) - began).total_seconds()
        print(f"  {took:.1f} s: {ended['reason']}", file=sys.stderr, flush=True)
        bad = [verdict["check"] for verdict in ended["verdicts"] if verdict["result"] == "fail"]
        return {
            "phase": ended["phase"],
            "seconds": round(took, 1),
            "harmed": ended["harmed"],
            "failed": sum(bool(each.failed) for each in callers.seen),
            "why": ", ".join(bad),
        }


async def errors() -> dict[str, Any]:
    return await taken_back(ERRORS)


async def slow() -> dict[str, Any]:
    return await taken_back(SLOW)


# --- a release that is fluent, and wrong ----------------------------------------------------------------------------


def wrong_modelfile() -> Path:
    """Of v1.2: in the repository, or where WRONG_RELEASE says."""
    return Path(os.environ.get("WRONG_RELEASE", ROOT / "models/ollama/Modelfile.v1.2"))


async def wrong() -> dict[str, Any]:
    """The trained models on the embedded engine: stopped by the gate; with the gate off, by quality."""
    with tempfile.TemporaryDirectory() as folder, running_stack(Path(folder)) as stack:
        async with aiohttp.ClientSession(stack.url) as session:
            await _keep(session, wrong_modelfile(), "v1.2")
            gated = await _ended(session, {})
            plan = {
                "steps": [{"weight": "25%", "min_time": "1h"}, "100%"],
                "gates": {"skip": ["evaluation"]},
                "probes": {"rate": 4},
            }
            judged = await _ended(session, plan)
    return {"with the gate": _ended_as(gated), "without the gate": _ended_as(judged)}


async def _keep(session: aiohttp.ClientSession, modelfile: Path, version: str) -> None:
    if not modelfile.is_file():  # noqa: ASYNC240 - once
        raise SystemExit(f"There is no {modelfile}: WRONG_RELEASE names that of a release that answers wrongly.")
    text = modelfile.read_text()  # noqa: ASYNC240 - once
    weights = re.search(r"^FROM (\S+)", text, re.MULTILINE)
    assert weights is not None
    content = (modelfile.parent / weights[1]).read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    async with session.put(f"/admin/releases/blobs/{sha256}", data=content) as answer:
        assert answer.status == 201, await answer.text()
    body = {"modelfile": text, "files": {weights[1]: sha256}, "version": version, "notes": "wrong on purpose"}
    async with session.post("/admin/releases", json=body) as answer:
        assert answer.status == 201, await answer.text()


async def _ended(session: aiohttp.ClientSession, plan: dict[str, Any]) -> dict[str, Any]:
    async with session.post("/admin/rollouts", json={"release": "v1.2", "plan": plan}) as answer:
        made = await answer.json()
        assert answer.status == 201, made
    until = time.monotonic() + MOST_S
    while time.monotonic() < until:
        async with session.get(f"/admin/rollouts/{made['id']}") as answer:
            shown: dict[str, Any] = await answer.json()
        if shown["ended_at"]:
            return shown
        await asyncio.sleep(0.5)
    raise RuntimeError(f"it did not end: {shown}")


def _ended_as(shown: dict[str, Any]) -> dict[str, Any]:
    began, ended = (datetime.fromisoformat(shown[name]) for name in ("started_at", "ended_at"))
    return {
        "ended": shown["phase"],
        "seconds": round((ended - began).total_seconds(), 1),
        "scored answers": shown["candidate"]["scored"],
        "why": shown["reason"],
    }


SECTIONS = {"moving": moving, "back": back, "errors": errors, "slow": slow, "wrong": wrong}


def main(names: list[str]) -> None:
    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in names or SECTIONS:
        print(f"{name} …", file=sys.stderr, flush=True)
        kept[name] = asyncio.run(SECTIONS[name]())
        print(json.dumps({name: kept[name]}, indent=2))
        RESULTS.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])

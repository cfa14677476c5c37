"""Authentication and limits alone, in a process of Ramsey's own environment: `python -m bench.access SPEC`, JSON out.

Each request comes with one of so many stored keys at random, is authenticated, takes what it may use of its limits
(requests and tokens a minute and places for its key, a day's tokens for its tenant), and settles.
"""

import asyncio
import gc
import hashlib
import json
import random
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from deployment.access.authentication import Authenticator
from deployment.access.directory import Directory
from deployment.access.limits import Limits, MemoryCounters, RuleBook, SharedCounters
from deployment.access.model import Changes, KeyRecord, Tenant
from deployment.clock import SystemClock
from deployment.settings import AccessSettings, LimitSet, LimitsSettings, Profile

MANY = 1_000_000_000  # limits that are counted and never reached
KEYS_OF_A_TENANT = 10


@dataclass(frozen=True)
class Spec:
    """How many keys and requests, and where limits are counted."""

    keys: int
    requests: int
    redis: str | None = None


def stored(keys: int) -> tuple[list[bytes], Changes]:
    """Keys as callers send them, and as they are kept."""
    now = datetime.now(UTC)
    presented = [b"rk_%040d" % number for number in range(keys)]
    records = tuple(
        KeyRecord(
            public_id=f"{number:012x}",
            sha256=hashlib.sha256(key).hexdigest(),
            name=f"app-{number}",
            tenant=f"tenant-{number // KEYS_OF_A_TENANT}",
            roles=("user",),
            scopes=(),
            models=(),
            networks=(),
            created_at=now,
            created_by="bench",
            expires_at=None,
            revoked_at=None,
            replaced_by=None,
            last_used_at=None,
        )
        for number, key in enumerate(presented)
    )
    tenants = tuple(
        Tenant(id=name, name=name, created_at=now, disabled_at=None) for name in {r.tenant for r in records}
    )
    return presented, Changes(version=1, keys=records, tenants=tenants, roles=(), limits=())


async def main(spec: Spec) -> dict[str, Any]:
    clock, directory = SystemClock(), Directory()
    presented, changes = stored(spec.keys)
    directory.apply(changes)
    directory.true_at = clock.monotonic()
    authenticator = Authenticator(AccessSettings(), Profile.PRODUCTION, clock, directory)
    settings = LimitsSettings(
        key=LimitSet(requests_per_minute=MANY, tokens_per_minute=MANY, concurrent=MANY),
        tenant=LimitSet(tokens_per_day=MANY),
    )
    counters: MemoryCounters | SharedCounters = MemoryCounters(clock)
    if spec.redis is not None:
        counters = SharedCounters.at(spec.redis, 1, 60.0, clock)
    limits = Limits(RuleBook(settings, clock, directory), counters)
    rng = random.Random(5)
    scopes = [
        {"headers": [(b"host", b"localhost"), (b"authorization", b"Bearer " + rng.choice(presented))], "state": {}}
        for _ in range(spec.requests)
    ]
    waits: list[float] = []
    gc.collect()  # as the gateway does when it has started
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)

    async def one(scope: dict[str, Any]) -> None:
        principal = authenticator.authenticate(scope)
        began = time.perf_counter()
        with await limits.reserve(principal, "ramsey-model", 300) as reservation:
            waits.append(time.perf_counter() - began)
            reservation.settle(100, 150)

    for scope in scopes[: spec.requests // 10]:
        await one(scope)
    waits.clear()
    began, cpu = time.perf_counter(), time.process_time()
    for scope in scopes:
        await one(scope)
    if isinstance(counters, SharedCounters):
        await asyncio.gather(*counters._returning)
    cpu, seconds = time.process_time() - cpu, time.perf_counter() - began
    calls = await _round_trips(counters, limits, authenticator, scopes[0]) if spec.redis else None
    await _close(counters)
    return {
        "keys": spec.keys,
        "requests": spec.requests,
        "cpu_us": round(cpu / spec.requests * 1e6, 1),
        "seconds": round(seconds, 2),
        "wait_us": round(sorted(waits)[len(waits) // 2] * 1e6, 1),
        "round_trips": calls,
    }


async def _round_trips(counters: Any, limits: Limits, authenticator: Authenticator, scope: dict[str, Any]) -> int:
    """What Redis was asked until a request could go on, by Redis's own count."""
    redis = counters._redis

    async def asked() -> int:
        stats = await redis.info("commandstats")
        return sum(row["calls"] for name, row in stats.items() if name.startswith("cmdstat_eval"))

    before = await asked()
    reservation = await limits.reserve(authenticator.authenticate(scope), "ramsey-model", 300)
    found = await asked() - before
    reservation.release()
    return found


async def _close(counters: MemoryCounters | SharedCounters) -> None:
    if isinstance(counters, SharedCounters):
        await counters.close()


if __name__ == "__main__":
    import uvloop

    print(json.dumps(uvloop.run(main(Spec(**json.loads(sys.argv[1]))))))

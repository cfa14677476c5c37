"""The load generator, in a process of its own: `python -m bench.load SPEC`, results as JSON on standard output.

Two ways to load. Closed: so many connections, each sends its next request when its last is answered. Open:
requests arrive at a mean rate (Poisson), however slow the answers are. A request is well when its status is 200
and its answer holds MARK; of a stream every MARK is a token. First-token times are seen here, from the sending.
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import uvloop

from bench.machine import cpu_seconds, rss_mb
from bench.upstream import MARK
from bench.wire import ClientConnection


@dataclass(frozen=True)
class Spec:
    """What to send, and how."""

    url: str
    path: str
    body: str
    """`{n}` becomes the number of the request, so that no two are the same."""
    headers: dict[str, str] = field(default_factory=dict)
    connections: int = 32
    seconds: float = 5.0
    requests: int | None = None
    """Closed: end after so many, whatever the time."""
    rate: float | None = None
    """Requests a second; None loads closed."""
    ramp: float = 0.0
    """Closed: the connections begin spread over so many seconds."""
    pid: int | None = None
    """Whose CPU and memory to measure over the window."""
    warmup: float = 0.0
    """Closed: seconds before the window."""


@dataclass(slots=True)
class Exchange:
    """One request on its way."""

    sent: float
    first: float | None = None
    tokens: int = 0
    sample: bytes = b""


class Load:
    """One run."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.loop = asyncio.get_running_loop()
        where = urlsplit(spec.url)
        self.host, self.port = where.hostname, where.port
        before, _, after = spec.body.partition("{n}")
        self.before, self.after = before.encode(), after.encode()
        length = len(self.before) + 8 + len(self.after)
        headers = {"host": where.netloc, "content-type": "application/json", **spec.headers}
        lines = [f"POST {spec.path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items()), f"content-length: {length}"]
        self.head = "\r\n".join(lines).encode() + b"\r\n\r\n" + self.before
        self.number = 0
        self.in_flight = 0
        self.sending = True
        self.idle: list[ClientConnection] = []
        self.finished = self.loop.create_future()
        self.reset()

    def reset(self) -> None:
        """Begin the window."""
        self.began = time.perf_counter()
        self.cpu = cpu_seconds(self.spec.pid) if self.spec.pid else 0.0
        self.own = time.process_time()
        self.latencies: list[float] = []
        self.firsts: list[float] = []
        self.failures: Counter[int] = Counter()
        self.samples: list[str] = []
        self.tokens = 0

    async def run(self) -> dict[str, Any]:
        spec = self.spec
        if spec.rate is not None:
            await self.open_loop(spec.rate)
        else:
            await self.closed_loop()
        return self.result()

    async def closed_loop(self) -> None:
        spec = self.spec
        if spec.warmup:
            self.loop.call_later(spec.warmup, self.reset)
        self.loop.call_later(spec.warmup + spec.seconds, self.stop)
        for _ in range(spec.connections):
            self.send(await self.connect())
            if spec.ramp:
                await asyncio.sleep(spec.ramp / spec.connections)
        await self.finished

    async def open_loop(self, rate: float) -> None:
        rng, at = random.Random(7), self.loop.time()
        end = at + self.spec.seconds
        while (at := at + rng.expovariate(rate)) < end:
            if (delay := at - self.loop.time()) > 0:
                await asyncio.sleep(delay)
            self.send(self.unused() or await self.connect())
        self.stop()
        if self.in_flight:
            await asyncio.wait([self.finished], timeout=30)

    def unused(self) -> ClientConnection | None:
        """A connection that waits for work; servers close those that waited for long."""
        while self.idle:
            connection = self.idle.pop()
            if not connection.closed and not connection.transport.is_closing():
                return connection
        return None

    async def connect(self) -> ClientConnection:
        _, connection = await self.loop.create_connection(
            lambda: ClientConnection(self.on_body, self.on_done), self.host, self.port
        )
        return connection

    def send(self, connection: ClientConnection) -> None:
        self.number += 1
        self.in_flight += 1
        request = self.head + b"%08d" % self.number + self.after
        connection.send(request, Exchange(time.perf_counter()))

    def on_body(self, connection: ClientConnection, data: bytes) -> None:
        exchange = connection.exchange
        if found := data.count(MARK):
            if exchange.first is None:
                exchange.first = time.perf_counter()
            exchange.tokens += found
        elif not exchange.tokens:
            exchange.sample = data[:300]

    def on_done(self, connection: ClientConnection, status: int) -> None:
        exchange, connection.exchange = connection.exchange, None
        self.in_flight -= 1
        if status == 200 and exchange.first is not None:
            self.latencies.append(time.perf_counter() - exchange.sent)
            self.firsts.append(exchange.first - exchange.sent)
            self.tokens += exchange.tokens
        else:
            self.failures[status] += 1
            if len(self.samples) < 3:
                self.samples.append(exchange.sample.decode(errors="replace"))
        spec = self.spec
        if spec.requests is not None and self.number >= spec.requests:
            self.sending = False
        if self.sending and spec.rate is None:
            if connection.closed:
                self.loop.create_task(self.send_on_new())
            else:
                self.send(connection)
        elif not connection.closed:
            self.idle.append(connection)
        if not self.sending and self.in_flight == 0 and not self.finished.done():
            self.finished.set_result(None)

    async def send_on_new(self) -> None:
        self.send(await self.connect())

    def stop(self) -> None:
        """Send no more."""
        self.sending = False
        if self.in_flight == 0 and not self.finished.done():
            self.finished.set_result(None)

    def result(self) -> dict[str, Any]:
        seconds = time.perf_counter() - self.began
        cpu = cpu_seconds(self.spec.pid) - self.cpu if self.spec.pid else None
        done = len(self.latencies)
        return {
            "requests": done,
            "failed": sum(self.failures.values()),
            "failures": dict(self.failures),
            "samples": self.samples,
            "seconds": round(seconds, 3),
            "per_second": round(done / seconds, 1),
            "tokens": self.tokens,
            "cpu_s": None if cpu is None else round(cpu, 3),
            "rss_mb": round(rss_mb(self.spec.pid), 1) if self.spec.pid else None,
            "generator_busy": round((time.process_time() - self.own) / seconds, 2),
            "latency_ms": quantiles(self.latencies),
            "first_ms": quantiles(self.firsts),
        }


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Median, 90th, 99th percentile and the worst, in milliseconds."""
    ordered = sorted(seconds)
    if not ordered:
        return {}
    at = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[min(int(q * len(ordered)), len(ordered) - 1)] * 1e3, 3) for name, q in at.items()}


async def main(spec: Spec) -> None:
    print(json.dumps(await Load(spec).run()))


if __name__ == "__main__":
    uvloop.run(main(Spec(**json.loads(sys.argv[1]))))

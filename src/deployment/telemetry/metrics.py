"""Prometheus metrics of the gateway. Every name begins with `ramsey_`; times are in seconds."""

from functools import cache
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from deployment.telemetry.record import RequestRecord

if TYPE_CHECKING:
    from collections.abc import Callable

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_RATES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000)


class Metrics:
    """The gateway's figures in a registry of their own (no global one), so that two applications never mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        own = self.registry
        self.requests = Counter("ramsey_requests", "Requests answered", ["endpoint", "status"], registry=own)
        self.errors = Counter(
            "ramsey_errors", "Requests that failed, by error code", ["endpoint", "code"], registry=own
        )
        self.seconds = Histogram(
            "ramsey_request_seconds",
            "From a request's arrival to its last byte",
            ["endpoint"],
            buckets=_SECONDS,
            registry=own,
        )
        self.first_token = Histogram(
            "ramsey_time_to_first_token_seconds",
            "From arrival to the first token",
            ["release"],
            buckets=_SECONDS,
            registry=own,
        )
        self.prompt_tokens = Counter("ramsey_prompt_tokens", "Tokens in", ["release", "tenant"], registry=own)
        self.completion_tokens = Counter("ramsey_completion_tokens", "Tokens out", ["release", "tenant"], registry=own)
        self.tokens_per_second = Histogram(
            "ramsey_tokens_per_second", "Speed of one answer", ["release"], buckets=_RATES, registry=own
        )
        self.load_seconds = Histogram(
            "ramsey_model_load_seconds",
            "Time that requests waited for a model to load",
            ["release"],
            buckets=_SECONDS,
            registry=own,
        )
        self.cache_lookups = Counter(
            "ramsey_cache_lookups", "Deterministic requests, by what the cache had for them", ["result"], registry=own
        )
        self.in_flight = Gauge("ramsey_requests_in_flight", "Requests being answered", registry=own)
        self._requests: Callable[[str, int], Counter] = cache(
            lambda endpoint, status: self.requests.labels(endpoint, str(status))
        )
        self._seconds: Callable[[str], Histogram] = cache(self.seconds.labels)
        self._release: Callable[[str, str], tuple[Histogram, Counter, Counter, Histogram]] = cache(
            lambda release, tenant: (
                self.first_token.labels(release),
                self.prompt_tokens.labels(release, tenant),
                self.completion_tokens.labels(release, tenant),
                self.tokens_per_second.labels(release),
            )
        )

    def observe(self, record: RequestRecord, duration_ms: float) -> None:
        """Count one finished request."""
        self._requests(record.endpoint, record.status).inc()
        self._seconds(record.endpoint).observe(duration_ms / 1e3)
        if record.error:
            self.errors.labels(record.endpoint, record.error).inc()
        if not record.release:
            return
        first_token, tokens_in, tokens_out, speed = self._release(record.release, record.tenant or "none")
        if record.first_token_ms is not None:
            first_token.observe(record.first_token_ms / 1e3)
        tokens_in.inc(record.prompt_tokens)
        tokens_out.inc(record.completion_tokens)
        if record.completion_ms > 0 and record.completion_tokens > 0:
            speed.observe(record.completion_tokens / record.completion_ms * 1e3)
        if record.load_ms > _LOADED_MS:
            self.load_seconds.labels(record.release).observe(record.load_ms / 1e3)

    def render(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)


_LOADED_MS = 50.0  # below this a node only looked the loaded runner up

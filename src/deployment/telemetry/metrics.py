"""Prometheus metrics of the gateway. Every name begins with `ramsey_`; times are in seconds."""

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from deployment.telemetry.record import RequestRecord
from deployment.telemetry.tallies import Count, Spread

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
        self._requests = Count("ramsey_requests", "Requests answered", ("endpoint", "status"), own)
        self._errors = Count("ramsey_errors", "Requests that failed, by error code", ("endpoint", "code"), own)
        self._seconds = Spread(
            "ramsey_request_seconds", "From a request's arrival to its last byte", ("endpoint",), _SECONDS, own
        )
        release, tenant = ("release",), ("release", "tenant")
        self._first_token = Spread(
            "ramsey_time_to_first_token_seconds", "From arrival to the first token", release, _SECONDS, own
        )
        self._prompt_tokens = Count("ramsey_prompt_tokens", "Tokens in", tenant, own)
        self._completion_tokens = Count("ramsey_completion_tokens", "Tokens out", tenant, own)
        self._speed = Spread("ramsey_tokens_per_second", "Speed of one answer", release, _RATES, own)
        self._load_seconds = Spread(
            "ramsey_model_load_seconds", "Time that requests waited for a model to load", release, _SECONDS, own
        )
        self.cache_lookups = Counter(
            "ramsey_cache_lookups", "Deterministic requests, by what the cache had for them", ["result"], registry=own
        )
        self.in_flight = 0
        """Requests being answered."""
        flying = Gauge("ramsey_requests_in_flight", "Requests being answered", registry=own)
        flying.set_function(lambda: self.in_flight)

    def observe(self, record: RequestRecord, duration_ms: float) -> None:
        """Count one finished request."""
        endpoint = record.endpoint
        self._requests.add((endpoint, str(record.status)))
        self._seconds.observe((endpoint,), duration_ms / 1e3)
        if record.error:
            self._errors.add((endpoint, record.error))
        if not record.release:
            return
        release = (record.release,)
        if record.first_token_ms is not None:
            self._first_token.observe(release, record.first_token_ms / 1e3)
        of_tenant = (record.release, record.tenant or "none")
        self._prompt_tokens.add(of_tenant, record.prompt_tokens)
        self._completion_tokens.add(of_tenant, record.completion_tokens)
        if record.completion_ms > 0 and record.completion_tokens > 0:
            self._speed.observe(release, record.completion_tokens / record.completion_ms * 1e3)
        if record.load_ms > _LOADED_MS:
            self._load_seconds.observe(release, record.load_ms / 1e3)

    def render(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)


_LOADED_MS = 50.0  # below this a node only looked the loaded runner up

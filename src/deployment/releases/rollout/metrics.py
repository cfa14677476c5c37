"""Rollouts for Prometheus."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge

from deployment.releases.rollout.model import Rollout


class RolloutMetrics:
    """What runs is told by the leader; what ended by the gateway where it did."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._weight = Gauge(
            "ramsey_rollout_weight", "Share of the new release in a running rollout.", ["model"], registry=registry
        )
        self._held = Gauge("ramsey_rollout_held", "1 while a rollout waits for a person.", ["model"], registry=registry)
        self._ended = Counter(
            "ramsey_rollouts_ended", "Rollouts that ended, by how.", ["model", "phase"], registry=registry
        )
        self._harmed = Counter(
            "ramsey_rollout_harmed_requests",
            "Requests that a new release failed or answered too slowly, of rollouts that ended.",
            ["model"],
            registry=registry,
        )

    def running(self, rollouts: Iterable[Rollout]) -> None:
        """All that run now."""
        self._weight.clear()
        self._held.clear()
        for rollout in rollouts:
            self._weight.labels(rollout.model).set(rollout.weight)
            self._held.labels(rollout.model).set(float(rollout.stop is not None))

    def ended(self, rollout: Rollout) -> None:
        """One is over."""
        self._ended.labels(rollout.model, rollout.phase.value).inc()
        self._harmed.labels(rollout.model).inc(rollout.figures.harmed)

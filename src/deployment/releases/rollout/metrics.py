"""Rollouts for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from deployment.releases.rollout.decide import Decision, End, Hold
from deployment.releases.rollout.model import Rollout


class RolloutMetrics:
    """On the leader; others keep zeros."""

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

    def note(self, rollout: Rollout, decision: Decision) -> None:
        """Something was decided."""
        over = rollout.phase.over
        self._weight.labels(rollout.model).set(0.0 if over else rollout.weight)
        self._held.labels(rollout.model).set(float(isinstance(decision, Hold)))
        if isinstance(decision, End):
            self._ended.labels(rollout.model, rollout.phase.value).inc()
            self._harmed.labels(rollout.model).inc(rollout.figures.harmed)

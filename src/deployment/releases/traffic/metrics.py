"""The table as Prometheus sees it."""

from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from deployment.releases.traffic.table import Traffic


class TrafficMetrics(Collector):
    """Read when asked, so that a release that left is gone."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic

    def collect(self) -> Iterable[Metric]:
        """Weights, and the table's version."""
        weights = GaugeMetricFamily(
            "ramsey_traffic_weight", "Part of a model's traffic, 0 to 1", labels=["model", "release"]
        )
        for split in self._traffic.splits:
            for share in split.shares:
                weights.add_metric([split.model, share.release], share.weight)
        yield weights
        yield GaugeMetricFamily(
            "ramsey_traffic_version", "Version of the traffic table in this gateway", self._traffic.version
        )

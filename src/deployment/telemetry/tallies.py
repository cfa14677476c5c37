"""Counters and histograms for what every request counts. The library's own take a lock and check their labels
at each step, which costs as much as a request's placement; here a step is an entry of a dictionary.

Only the event loop's thread may count; any thread may collect.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class Count(Collector):
    """A counter, by labels."""

    def __init__(self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._values: dict[tuple[str, ...], float] = {}
        registry.register(self)

    def add(self, labels: tuple[str, ...], amount: float = 1.0) -> None:
        """Count `amount` more; `labels` are the values, in order."""
        values = self._values
        values[labels] = values.get(labels, 0.0) + amount

    def describe(self) -> Iterable[Metric]:
        """Its name, for the registry."""
        return [CounterMetricFamily(self._name, self._text, labels=self._labels)]

    def collect(self) -> Iterable[Metric]:
        """Its values as they are now."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for labels, value in self._values.copy().items():
            family.add_metric(labels, value)
        return [family]


class Spread(Collector):
    """A histogram, by labels."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float], registry: CollectorRegistry
    ) -> None:
        """`bounds`: of the buckets, each the largest value that belongs to it."""
        self._name, self._text, self._labels, self._bounds = name, text, labels, tuple(bounds)
        self._names = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        self._tallies: dict[tuple[str, ...], list[float]] = {}  # the buckets, each on its own, then the sum
        registry.register(self)

    def observe(self, labels: tuple[str, ...], value: float) -> None:
        """Count one value; `labels` are the values of the labels, in order."""
        tally = self._tallies.get(labels)
        if tally is None:
            tally = self._tallies[labels] = [0.0] * (len(self._bounds) + 2)
        tally[bisect_left(self._bounds, value)] += 1.0
        tally[-1] += value

    def describe(self) -> Iterable[Metric]:
        """Its name, for the registry."""
        return [HistogramMetricFamily(self._name, self._text, labels=self._labels)]

    def collect(self) -> Iterable[Metric]:
        """Its values as they are now."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for labels, tally in self._tallies.copy().items():
            *buckets, total = tally
            family.add_metric(labels, list(zip(self._names, accumulate(buckets), strict=True)), total)
        return [family]

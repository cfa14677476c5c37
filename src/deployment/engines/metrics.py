"""The pool's numbers for Prometheus. Counters are kept as work is done; states are read when asked for."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deployment.engines.model import NodeState, NodeView, Priority
from deployment.telemetry import Count, Spread

_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class PoolMetrics:
    """What is counted. `registry` takes them; there is no global one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        node = ("node", "release")
        self._requests = Count(
            "ramsey_node_requests_total", "Attempts on a node by their outcome.", (*node, "outcome"), registry
        )
        self._first = Spread(
            "ramsey_node_first_token_seconds",
            "From an attempt to its first token; of answers that don't stream, to the answer.",
            node,
            _SECONDS,
            registry,
        )
        self._loads = Counter(
            "ramsey_node_loads_total",
            "Loads by the pool, by outcome.",
            (*node, "outcome"),
            registry=registry,
        )
        self._breaker = Counter(
            "ramsey_node_breaker_changes_total",
            "Changes of a node's breaker, by the new phase.",
            ("node", "phase"),
            registry=registry,
        )
        self._retries = Counter(
            "ramsey_node_retries_total",
            "Requests that went to another node after this one failed them.",
            node,
            registry=registry,
        )
        self._hedges = Counter(
            "ramsey_node_hedges_total",
            "Second attempts for a late first token, by whether they were first.",
            (*node, "won"),
            registry=registry,
        )
        self._wait = Histogram(
            "ramsey_queue_wait_seconds",
            "Wait for a slot of those that had to wait and got one.",
            ("priority",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._left = Counter(
            "ramsey_queue_left_total",
            "Requests that left the queue without a slot.",
            ("priority", "outcome"),
            registry=registry,
        )

    def watch(
        self,
        nodes: Callable[[], list[NodeView]],
        depths: Callable[[], Iterable[tuple[str, Priority, int]]],
    ) -> None:
        """From now on, read states from there when metrics are asked for."""
        self._registry.register(_States(nodes, depths))

    def attempt(self, node: str, release: str, outcome: str) -> None:
        """An attempt ended: ok, cancelled, or an error's code."""
        self._requests.add((node, release, outcome))

    def first_token(self, node: str, release: str, seconds: float) -> None:
        """The first event of an attempt came."""
        self._first.observe((node, release), seconds)

    def load(self, node: str, release: str, outcome: str) -> None:
        """A load ended: ok, or an error's code."""
        self._loads.labels(node, release, outcome).inc()

    def breaker(self, node: str, phase: str) -> None:
        """A breaker changed."""
        self._breaker.labels(node, phase).inc()

    def retry(self, node: str, release: str) -> None:
        """A request goes on after this node failed it."""
        self._retries.labels(node, release).inc()

    def hedge(self, node: str, release: str, won: bool) -> None:
        """A second attempt was decided."""
        self._hedges.labels(node, release, "yes" if won else "no").inc()

    def waited(self, priority: Priority, seconds: float) -> None:
        """A request got its slot after a wait."""
        self._wait.labels(priority.value).observe(seconds)

    def left(self, priority: Priority, outcome: str) -> None:
        """A request left the queue: expired or cancelled."""
        self._left.labels(priority.value, outcome).inc()

    def refused(self, priority: Priority) -> None:
        """The queue was full."""
        self._left.labels(priority.value, "refused").inc()


class _States(Collector):
    def __init__(
        self,
        nodes: Callable[[], list[NodeView]],
        depths: Callable[[], Iterable[tuple[str, Priority, int]]],
    ) -> None:
        self._nodes, self._depths = nodes, depths

    def describe(self) -> Iterable[Metric]:
        """Nothing is read at registration."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """The state of now."""
        state = GaugeMetricFamily("ramsey_node_state", "1 for the state a node is in.", labels=("node", "state"))
        slots = GaugeMetricFamily("ramsey_node_slots", "Slots that this gateway may use.", labels=("node",))
        per_release = ("node", "release")
        flight = GaugeMetricFamily("ramsey_node_in_flight", "Requests on a node.", labels=per_release)
        loaded = GaugeMetricFamily("ramsey_node_loaded", "1 where the release is loaded.", labels=per_release)
        expected = GaugeMetricFamily(
            "ramsey_node_expected_first_token_seconds", "Moving average of the first token.", labels=per_release
        )
        for node in self._nodes():
            for each in NodeState:
                state.add_metric((node.name, each.value), float(node.state is each))
            slots.add_metric((node.name,), node.share)
            for on in node.releases:
                flight.add_metric((node.name, on.release), on.in_flight)
                loaded.add_metric((node.name, on.release), float(on.loaded))
                if on.expected_ttft_s is not None:
                    expected.add_metric((node.name, on.release), on.expected_ttft_s)
        depth = GaugeMetricFamily("ramsey_queue_depth", "Requests that wait.", labels=("release", "priority"))
        for release, priority, count in self._depths():
            depth.add_metric((release, priority.value), count)
        return state, slots, flight, loaded, expected, depth

"""Our own counters and histograms tell what the library's would."""

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from deployment.telemetry import Count, Spread

BOUNDS = (0.005, 0.5, 1, 10)
SAMPLES = [
    (("a", "200"), 0.005),
    (("a", "200"), 0.0051),
    (("a", "200"), 7.25),
    (('b"\n', "500"), 1e6),
    (("a", "404"), 0.0),
]


def lines(registry: CollectorRegistry) -> list[str]:
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


def test_a_count_tells_what_the_library_would() -> None:
    own, theirs = CollectorRegistry(), CollectorRegistry()
    count = Count("ramsey_things", "Things", ("kind", "status"), own)
    counter = Counter("ramsey_things", "Things", ("kind", "status"), registry=theirs)
    for labels, amount in SAMPLES:
        count.add(labels)
        count.add(labels, amount)
        counter.labels(*labels).inc()
        counter.labels(*labels).inc(amount)
    assert lines(own) == lines(theirs)
    assert own.get_sample_value("ramsey_things_total", {"kind": "a", "status": "404"}) == 1.0


def test_a_spread_tells_what_the_library_would() -> None:
    own, theirs = CollectorRegistry(), CollectorRegistry()
    spread = Spread("ramsey_seconds", "Seconds", ("kind", "status"), BOUNDS, own)
    histogram = Histogram("ramsey_seconds", "Seconds", ("kind", "status"), buckets=BOUNDS, registry=theirs)
    for labels, value in SAMPLES:
        spread.observe(labels, value)
        histogram.labels(*labels).observe(value)
    assert lines(own) == lines(theirs)
    at_bound = {"kind": "a", "status": "200", "le": "0.005"}
    assert own.get_sample_value("ramsey_seconds_bucket", at_bound) == 1.0

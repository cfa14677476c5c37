"""How many requests are asked twice, and when: never more than their share."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from tests.deployment.engines.conftest import MakePool, storm
from tests.support.fake_node import FakeNode

from deployment.engines.hedge import Budget, Lateness


@given(st.floats(0.01, 0.5), st.lists(st.booleans(), max_size=400))
def test_never_more_than_the_share_of_what_came(share: float, late: list[bool]) -> None:
    budget, taken = Budget(share), 0
    for number, is_late in enumerate(late, 1):
        budget.seen()
        taken += is_late and budget.take()
        assert taken <= share * number + 1e-6


def test_what_was_not_used_is_kept_up_to_a_bound() -> None:
    budget = Budget(0.1)
    for _ in range(100_000):
        budget.seen()
    assert [budget.take() for _ in range(11)] == [True] * 10 + [False]


def test_late_is_what_nineteen_of_twenty_are_not_once_enough_is_known() -> None:
    lateness = Lateness()
    for number in range(19):
        lateness.add(number / 100)
    assert lateness.p95 is None
    lateness.add(0.19)
    assert lateness.p95 == 0.19
    for _ in range(400):
        lateness.add(1.0)
    assert lateness.p95 == 1.0  # old ones are forgotten


async def test_when_all_is_late_the_nodes_get_no_more_than_the_share_on_top(pool_over: MakePool) -> None:
    """A pool that is slow as a whole must not get twice the work for it."""
    registry = CollectorRegistry()
    a, b = FakeNode(slots=32), FakeNode(slots=32)
    async with a, b, pool_over([a, b], hedge_share=0.1, engine={"num_parallel": 32}, registry=registry) as pool:
        await storm(pool, clients=4, each=15)
        for node in (a, b):
            node.fail("slow", seconds=0.05)
        before = a.requests["/api/chat"] + b.requests["/api/chat"]
        assert not (await storm(pool, clients=20, each=5)).failed
        assert before + 100 < a.requests["/api/chat"] + b.requests["/api/chat"] <= before + 100 + 0.1 * 160

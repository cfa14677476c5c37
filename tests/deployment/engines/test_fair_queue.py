"""The order of the queue."""

from hypothesis import given
from hypothesis import strategies as st

from deployment.engines.fair_queue import Entry, FairQueue
from deployment.engines.model import Priority

BATCH, INTERACTIVE = Priority.BATCH, Priority.INTERACTIVE


def entry(name: str, tenant: str = "a", priority: Priority = INTERACTIVE, cost: float = 1.0) -> Entry[str]:
    return Entry(name, tenant, priority, cost, 0.0)


def served(queue: FairQueue[str], many: int = 1000) -> list[str]:
    names: list[str] = []
    while len(queue) and len(names) < many:
        head = queue.in_order()[0]
        assert queue.remove(head, served=True)
        names.append(head.item)
    return names


def filled(*entries: Entry[str], batch_share: int = 10) -> FairQueue[str]:
    queue: FairQueue[str] = FairQueue(batch_share)
    for each in entries:
        queue.push(each)
    return queue


def test_one_tenant_is_served_in_its_order() -> None:
    assert served(filled(*(entry(str(i)) for i in range(5)))) == ["0", "1", "2", "3", "4"]


def test_a_tenant_with_a_hundred_does_not_delay_another_with_one() -> None:
    queue = filled(*(entry(f"a{i}") for i in range(100)))
    served(queue, 3)
    queue.push(entry("b", tenant="b"))
    assert "b" in served(queue, 2)


def test_tokens_count_not_requests() -> None:
    long = [entry(f"long{i}", "a", cost=300) for i in range(20)]
    short = [entry(f"short{i}", "b", cost=100) for i in range(20)]
    first = served(filled(*long, *short), 12)
    assert sum(name.startswith("short") for name in first) == 9


def test_interactive_goes_first_and_batch_does_not_starve() -> None:
    queue = filled(
        *(entry(f"b{i}", priority=BATCH) for i in range(5)),
        *(entry(f"i{i}") for i in range(20)),
        batch_share=5,
    )
    order = served(queue, 15)
    assert order[:5] == ["i0", "i1", "i2", "i3", "b0"]
    assert [name[0] for name in order].count("b") == 3


def test_who_was_failed_by_a_node_goes_before_all() -> None:
    queue = filled(entry("new"))
    queue.push_first(entry("again", tenant="z"))
    assert served(queue) == ["again", "new"]


def test_who_waits_for_something_better_keeps_its_place_and_holds_nobody_up() -> None:
    queue = filled(entry("choosy"), entry("next"), entry("last"))
    choosy = queue.in_order()[0]
    assert queue.set_aside(choosy)
    assert not queue.set_aside(choosy)
    assert [each.item for each in queue.in_order()] == ["choosy", "next"]
    assert (len(queue), queue.depth(INTERACTIVE), queue.depth(BATCH)) == (3, 3, 0)
    assert served(queue) == ["choosy", "next", "last"]


def test_only_so_many_are_looked_at_each_time() -> None:
    queue = filled(*(entry(str(i)) for i in range(40)))
    while queue.set_aside(queue.in_order()[-1]):
        pass
    assert len(queue.in_order()) == 17
    assert served(queue) == [str(i) for i in range(40)]


def test_more_tokens_than_estimated_are_paid_later() -> None:
    queue = filled(entry("a0", "a"), entry("a1", "a"), entry("b0", "b"), entry("b1", "b"), entry("b2", "b"))
    queue.correct("a", INTERACTIVE, 50.0)
    queue.push(entry("a2", "a"))
    assert served(queue)[-1] == "a2"


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, int, str, Priority, float]]:
    step = st.tuples(
        st.sampled_from(["push", "push", "again", "aside", "serve", "leave"]),
        st.integers(0, 30),
        st.sampled_from("abc"),
        st.sampled_from(list(Priority)),
        st.floats(0.1, 1000),
    )
    return draw(st.lists(step, max_size=120))


@given(histories())
def test_each_entry_leaves_exactly_once(history: list[tuple[str, int, str, Priority, float]]) -> None:
    queue: FairQueue[str] = FairQueue(4)
    inside: list[Entry[str]] = []
    left: list[str] = []
    for number, (what, index, tenant, priority, cost) in enumerate(history):
        if what in {"push", "again"}:
            new = entry(str(number), tenant, priority, cost)
            (queue.push if what == "push" else queue.push_first)(new)
            inside.append(new)
        elif inside and what == "aside":
            queue.set_aside(queue.in_order()[-1])
        elif inside:
            out = queue.in_order()[0] if what == "serve" else inside[index % len(inside)]
            assert queue.remove(out, served=what == "serve")
            assert not queue.remove(out, served=True)
            inside.remove(out)
            left.append(out.item)
        assert len(queue) == len(inside)
    left += served(queue)
    assert len(left) == len(set(left))
    assert not len(queue)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(list(Priority))), min_size=1, max_size=40))
def test_nobody_starves(rivals: list[tuple[str, Priority]]) -> None:
    """Rivals that come for ever delay an entry by a bounded number of turns."""
    queue: FairQueue[str] = FairQueue(4)
    for number, (tenant, priority) in enumerate(rivals):
        queue.push(entry(f"before{number}", tenant, priority))
    queue.push(entry("mine", "mine", BATCH))
    for turn in range(4 * (len(rivals) + 3)):
        queue.push(entry(f"rival{turn}", "a", INTERACTIVE))
        if served(queue, 1) == ["mine"]:
            return
    raise AssertionError("it was never served")

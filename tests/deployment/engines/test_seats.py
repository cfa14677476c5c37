"""What the slots of a node hold."""

from hypothesis import given
from hypothesis import strategies as st

from deployment.engines.prefix import block_hashes
from deployment.engines.seats import Seats, Survey, Ticket, common


def prompt(*parts: str) -> list[int]:
    """Each part is ten blocks."""
    return block_hashes("m", "".join(part * 640 for part in parts))


def test_what_is_common_is_counted_in_blocks() -> None:
    assert common(prompt("a", "b"), prompt("a", "c")) == 10
    assert common(prompt("a", "b"), prompt("a", "b", "c")) == 20
    assert common(prompt("a"), prompt("b")) == common([], prompt("a")) == 0


def test_a_prompt_goes_where_most_of_it_is_and_else_where_nobody_was_for_long() -> None:
    seats = Seats(2)
    first, second = seats.take(prompt("a")), seats.take(prompt("b"))
    assert first.seat is not second.seat
    seats.leave(first)
    seats.leave(second)
    assert seats.survey(prompt("b", "x")).idle == 10
    back = seats.take(prompt("b", "x"))
    assert back.seat is second.seat
    seats.leave(back)
    assert seats.take(prompt("c")).seat is first.seat
    assert seats.survey(prompt("a")) == Survey(0, 0, 0)  # overwritten, though the node has read it


def test_busy_slots_that_hold_more_are_told_apart() -> None:
    seats = Seats(3)
    seats.leave(seats.take(prompt("a")))
    seats.take(prompt("a", "b"))
    seats.take(prompt("a", "c"))
    assert seats.survey(prompt("a", "b")) == Survey(0, 20, 1)
    assert seats.survey(prompt("a", "x")) == Survey(0, 10, 2)
    seats.take(prompt("z"))
    assert seats.survey(prompt("a", "x")) == Survey(6, 10, 2)  # all are busy: the mean


def test_who_waits_takes_the_slot_that_comes_free() -> None:
    seats = Seats(1)
    first, second, third = seats.take(prompt("a")), seats.take(prompt("b")), seats.take(prompt("c"))
    seats.leave(second)  # gone before its turn
    seats.leave(first)
    assert third.seat is not None
    assert seats.survey(prompt("c")).busy == 10


def test_a_restart_empties_them() -> None:
    seats = Seats(1)
    seats.leave(seats.take(prompt("a")))
    seats.forget()
    assert seats.survey(prompt("a")) == Survey(0, 0, 0)


@given(st.integers(1, 4), st.lists(st.tuples(st.sampled_from(["take", "leave"]), st.integers(0, 9)), max_size=60))
def test_a_slot_is_held_by_one_and_none_is_idle_while_somebody_waits(
    slots: int, history: list[tuple[str, int]]
) -> None:
    seats = Seats(slots)
    inside: list[Ticket] = []
    for what, number in history:
        if what == "take":
            inside.append(seats.take(prompt("abcdefghij"[number])))
        elif inside:
            seats.leave(inside.pop(number % len(inside)))
        held = [id(ticket.seat) for ticket in inside if ticket.seat is not None]
        assert len(held) == len(set(held)) == min(len(inside), slots)

"""What answers teach of a node: its speed, and how much of what we believe in its cache was really there."""

from typing import Any

import pytest

from deployment.engines.learned import Learned, fade


def answer(learned: Learned, **given: Any) -> None:
    usual: dict[str, Any] = {
        "at": 1.0,
        "service_s": 2.0,
        "first_s": 1.05,
        "load_s": 0.0,
        "prompt_s": 1.0,
        "chars": 10_000,
        "held_chars": 0,
        "seen_chars": 0,
        "turns": 0.0,
    }
    learned.answered(**usual | given)


def taught(answers: int = 20, **given: Any) -> Learned:
    """After one answer without any cache, then so many as given."""
    learned = Learned()
    answer(learned)
    for _ in range(answers):
        answer(learned, **given)
    return learned


def test_the_first_answer_says_how_fast_it_reads() -> None:
    learned = taught(0)
    assert learned.char_s == pytest.approx(0.0001)
    assert learned.overhead_s == pytest.approx(0.05)
    assert learned.service_s == pytest.approx(2.0)


def test_a_cache_that_holds_what_we_believe_is_trusted() -> None:
    learned = taught(prompt_s=0.1, first_s=0.15, held_chars=9000, seen_chars=9000)
    assert learned.matched(9000, 9000) == pytest.approx(9000, rel=0.02)


def test_a_cache_that_holds_nothing_is_not() -> None:
    learned = taught(prompt_s=1.0, held_chars=9000, seen_chars=9000)
    assert learned.matched(9000, 9000) < 300
    assert learned.char_s == pytest.approx(0.0001, rel=0.02)  # it did not become slow by that


def test_what_the_slots_lost_may_lie_elsewhere_and_that_is_learned_for_itself() -> None:
    nowhere = taught(prompt_s=1.0, held_chars=0, seen_chars=9000)
    elsewhere = taught(prompt_s=0.1, first_s=0.15, held_chars=0, seen_chars=9000)
    assert nowhere.matched(0, 9000) < 300
    assert elsewhere.matched(0, 9000) == pytest.approx(9000, rel=0.02)
    assert nowhere.matched(9000, 9000) == pytest.approx(9000)


def test_a_slower_engine_is_seen_though_everything_is_cached() -> None:
    learned = taught(prompt_s=3.0, first_s=3.05, chars=10_000, held_chars=9000, seen_chars=9000)
    assert learned.char_s is not None
    assert learned.char_s > 0.00025  # reading all of it anew would explain no less


def test_short_prompts_say_nothing_of_the_speed_of_reading() -> None:
    learned = Learned()
    answer(learned, chars=20, prompt_s=0.03)
    assert learned.char_s is None


def test_the_wait_for_a_slot_is_not_taken_for_slowness() -> None:
    learned = Learned()
    answer(learned, service_s=4.0, first_s=3.05, turns=1.0)
    assert learned.service_s == pytest.approx(2.0)
    assert learned.overhead_s == pytest.approx(0.05)


def test_a_load_is_not_taken_for_slowness() -> None:
    learned = Learned()
    answer(learned, service_s=7.0, first_s=6.05, load_s=5.0)
    assert (learned.load_s, learned.service_s) == (5.0, 2.0)
    assert learned.overhead_s == pytest.approx(0.05)


def test_a_bad_measure_fades_and_a_good_one_stays() -> None:
    assert fade(5.0, 1.0, 0.0) == 5.0
    assert fade(5.0, 1.0, 30.0) == pytest.approx(3.0)
    assert fade(5.0, 1.0, 3600.0) == pytest.approx(1.0)
    assert fade(0.5, 1.0, 3600.0) == 0.5

from collections import Counter
from dataclasses import replace

import pytest

from deployment.errors import ModelNotFound
from deployment.releases.traffic import Caller, Choice, Pin, PinKind, Route, Share, Split, Sticky, choose, single

OLD, NEW, WARM = "ramsey-model:v1.0", "ramsey-model:v1.1", "ramsey-model:v0.9"
SHARES = (Share(OLD, 0.9), Share(NEW, 0.1), Share(WARM, 0.0))
PINS = (
    Pin(PinKind.HEADER, "beta", NEW),
    Pin(PinKind.KEY, "k1", NEW),
    Pin(PinKind.TENANT, "acme", OLD),
)
SPLIT = Split("ramsey-model", SHARES, pins=PINS, candidate=NEW, rollout="r", salt="r")
ANY = Caller("k9", "default")


@pytest.mark.parametrize(
    ("caller", "draw", "choice"),
    [
        (ANY, 0.0, Choice(NEW, 0.1)),
        (ANY, 0.0999, Choice(NEW, 0.1)),
        (ANY, 0.1, Choice(OLD, 0.1)),
        (ANY, 0.999999, Choice(OLD, 0.1)),
        (Caller("k1", "default"), 0.5, Choice(NEW, None, True)),
        (Caller("k9", "acme"), 0.0, Choice(OLD, None, True)),
        (Caller("k1", "acme"), 0.0, Choice(NEW, None, True)),  # the key is nearer than its tenant
        (Caller("k1", "acme", pin="v1.0"), 0.0, Choice(OLD, None, True)),  # and the request nearer than the key
        (Caller("k9", "default", pin="beta"), 0.5, Choice(NEW, None, True)),
        (Caller("k9", "default", pin="V1.1"), 0.5, Choice(NEW, None, True)),
        (Caller("k9", "default", pin="ramsey-model:v1.0"), 0.5, Choice(OLD, None, True)),
    ],
)
def test_who_gets_which_release(caller: Caller, draw: float, choice: Choice) -> None:
    assert choose(SPLIT, caller, draw) == choice


@pytest.mark.parametrize("pin", ["v9", "gamma", "", "other:v1.0", "v0.9", "ramsey-model:v0.9"])
@pytest.mark.parametrize("split", [SPLIT, single("ramsey-model", OLD)])
def test_a_pin_to_what_has_no_traffic_is_refused(split: Split, pin: str) -> None:
    with pytest.raises(ModelNotFound) as refused:
        choose(split, Caller("k9", "default", pin=pin), 0.5)
    assert "There is: " in (refused.value.hint or "")


def test_a_release_alone_is_a_look_up() -> None:
    route = Route(Split("ramsey-model", (Share(OLD, 0.0), Share(NEW, 1.0)), sticky=Sticky.KEY))
    assert route.only == Choice(NEW)
    assert route.choose(ANY, 0.999999) is route.only
    assert Route(replace(SPLIT, pins=())).only is None
    assert Route(replace(SPLIT, shares=(Share(OLD, 1.0), Share(NEW, 0.0)))).only is None  # keys and tenants are pinned


def test_the_last_release_takes_what_rounding_leaves() -> None:
    thirds = Split("m", tuple(Share(f"m:v{n}", 1 / 3) for n in range(3)))
    assert choose(thirds, ANY, 1 - 2**-53).release == "m:v2"


@pytest.mark.parametrize(("sticky", "field"), [(Sticky.SESSION, "session"), (Sticky.KEY, "key")])
def test_sticky_callers_keep_their_release_while_the_candidate_grows(sticky: Sticky, field: str) -> None:
    split = replace(SPLIT, pins=(), sticky=sticky)
    callers = [replace(ANY, **{field: f"s{n}"}) for n in range(2000)]
    had: set[str] = set()
    for weight in (0.05, 0.25, 0.5, 1.0):
        grown = replace(split, shares=(Share(OLD, 1 - weight), Share(NEW, weight)))
        chosen = {getattr(each, field): choose(grown, each, 0.5) for each in callers}
        have = {name for name, choice in chosen.items() if choice.release == NEW}
        assert had <= have
        assert abs(len(have) / len(callers) - weight) < 0.03
        assert len({choice.cluster for choice in chosen.values()}) == len(callers)
        assert all(choice.weight == weight for choice in chosen.values())
        had = have


def test_each_rollout_draws_anew() -> None:
    callers = [Caller(f"k{n}", "default") for n in range(200)]
    even = Split("m", (Share("m:a", 0.5), Share("m:b", 0.5)), sticky=Sticky.KEY, salt="one")
    first, again, other = (
        [choose(each, caller, 0.0).release for caller in callers] for each in (even, even, replace(even, salt="two"))
    )
    assert first == again
    assert first != other


def test_a_caller_without_a_session_is_drawn_each_time() -> None:
    split = replace(SPLIT, sticky=Sticky.SESSION, pins=())
    drawn = [choose(split, ANY, n / 1000) for n in range(1000)]
    assert Counter(choice.release for choice in drawn) == {NEW: 100, OLD: 900}
    assert {choice.cluster for choice in drawn} == {None}

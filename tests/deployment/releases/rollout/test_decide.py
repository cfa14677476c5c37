"""Scenarios of rollouts, told as prose: given a plan, what happens, and what comes of it."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from deployment.errors import Conflict
from deployment.releases.judge import Result, Verdict
from deployment.releases.rollout.commands import Verb, commanded
from deployment.releases.rollout.decide import Facts, Wait, apply, decide
from deployment.releases.rollout.model import GateOutcome, Phase, Rollout, Stop, wanted_split
from deployment.releases.rollout.plan import parse
from deployment.releases.traffic import Pin, PinKind, Split, Sticky, check, single

OLD, NEW = "m:v1", "m:v2"
START = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)  # a Tuesday
PASSED = (GateOutcome("smoke", True, "it answers."),)


def verdict(result: Result, reason: str = "Seen enough.") -> Verdict:
    return Verdict("errors", result, 1.0, 2.0, 100, reason)


GOOD, OPEN = (verdict(Result.PASS),), (verdict(Result.INCONCLUSIVE, "12 of 100 requests."),)
BAD = (verdict(Result.PASS), verdict(Result.FAIL, "9 % of its answers failed."))


class Story:
    """One rollout whose world is told step by step."""

    def __init__(self, **plan: Any) -> None:
        self.now = START
        self.facts = Facts()
        self.split = single("m", OLD)
        self.rollout = Rollout(
            "r1", "m", OLD, NEW, parse(plan), Phase.PREPARING, 0, START, START, "Ada", "Ada deploys it."
        )
        self._settle()

    def given(self, **facts: Any) -> "Story":
        self.facts = replace(self.facts, **facts)
        return self

    def on_its_nodes(self) -> "Story":
        return self.given(placed=True)

    def after(self, seconds: float) -> "Story":
        """Time passes; the controller looks at the end of it, until nothing more changes."""
        self.now += timedelta(seconds=seconds)
        while not isinstance(decision := decide(self.rollout, self.facts, self.now), Wait):
            self.rollout = apply(self.rollout, decision, self.now)
            self._settle()
        return self

    def said(self, verb: Verb, *, full: bool = False) -> "Story":
        self.rollout = apply(self.rollout, commanded(self.rollout, verb, "Ada", full=full), self.now)
        self._settle()
        return self

    def _settle(self) -> None:
        self.split = wanted_split(self.rollout, self.split)
        check(self.split)

    def expect(self, phase: Phase, new: float, stop: Stop | None = None, says: Iterable[str] = ()) -> "Story":
        assert (self.rollout.phase, self.rollout.stop) == (phase, stop), self.rollout.reason
        assert self.split.weight(NEW) == pytest.approx(new)
        assert self.split.weight(OLD) == pytest.approx(1 - new)
        for words in says:
            assert words in self.rollout.reason
        return self


def canary(**plan: Any) -> Story:
    """A canary whose first step has begun."""
    return Story(**plan).on_its_nodes().given(gates=PASSED, verdicts=OPEN).after(1)


def test_a_healthy_canary_goes_by_steps_to_all_traffic_and_lets_the_old_release_go() -> None:
    story = canary().expect(Phase.STEPS, 0.05, says=["Every gate passed", "5 %"])
    for share in (0.25, 0.5, 1.0):
        story.given(verdicts=OPEN).after(121).given(verdicts=GOOD).after(1).expect(Phase.STEPS, share)
    story.after(119).expect(Phase.STEPS, 1.0)
    story.after(1).expect(Phase.BAKE, 1.0, says=["kept warm for 1 h"])
    assert [*story.split.releases] == [OLD, NEW]
    story.after(3599).expect(Phase.BAKE, 1.0)
    story.after(1).expect(Phase.DONE, 1.0)
    assert [*story.split.releases] == [NEW]
    assert (story.split.candidate, story.split.rollout) == (None, None)


def test_before_the_gates_passed_the_release_is_loaded_without_traffic() -> None:
    story = Story().expect(Phase.PREPARING, 0)
    assert [*story.split.releases] == [OLD]
    story.on_its_nodes().after(5).expect(Phase.GATES, 0)
    assert [*story.split.releases] == [OLD, NEW]
    assert story.split.candidate == NEW


def test_what_fails_goes_back_at_once_and_says_why() -> None:
    story = canary().given(verdicts=BAD).after(1)
    story.expect(Phase.ROLLED_BACK, 0, says=["9 % of its answers failed."])
    assert [*story.split.releases] == [OLD]


def test_what_fails_after_promotion_goes_back_while_the_old_release_is_warm() -> None:
    story = canary().said(Verb.PROMOTE, full=True).expect(Phase.BAKE, 1.0)
    story.after(600).given(verdicts=BAD).after(1).expect(Phase.ROLLED_BACK, 0)


def test_a_paused_rollout_that_fails_goes_back_all_the_same() -> None:
    canary().said(Verb.PAUSE).given(verdicts=BAD).after(1).expect(Phase.ROLLED_BACK, 0)


def test_too_little_evidence_holds_at_the_deadline_and_never_promotes() -> None:
    story = canary().after(3599).expect(Phase.STEPS, 0.05)
    story.after(1).expect(Phase.STEPS, 0.05, Stop.INCONCLUSIVE, ["12 of 100 requests."])
    story.given(verdicts=GOOD).after(86400).expect(Phase.STEPS, 0.05, Stop.INCONCLUSIVE)
    story.said(Verb.RESUME).after(120).expect(Phase.STEPS, 0.25)


def test_no_evidence_at_all_is_never_a_pass() -> None:
    canary().given(verdicts=()).after(3000).expect(Phase.STEPS, 0.05).after(600).expect(
        Phase.STEPS, 0.05, Stop.INCONCLUSIVE, ["no evidence"]
    )


def test_a_closed_gate_leaves_the_traffic_as_it_was() -> None:
    story = Story().on_its_nodes().given(gates=(*PASSED, GateOutcome("evaluation", False, "82 % is below 95 %.")))
    story.after(1).expect(Phase.REFUSED, 0, says=["evaluation: 82 % is below 95 %.", "The traffic stays as it was."])
    assert [*story.split.releases] == [OLD]


def test_a_release_that_cannot_be_placed_leaves_the_traffic_as_it_was() -> None:
    story = Story().given(placed=False, trouble="gpu-2: the disk is full.").after(1)
    story.expect(Phase.REFUSED, 0, says=["gpu-2: the disk is full."])


def test_placing_does_not_take_for_ever() -> None:
    Story().after(1799).expect(Phase.PREPARING, 0).after(1).expect(Phase.REFUSED, 0, says=["after 30 min"])


def test_gates_that_say_nothing_are_not_waited_for_for_ever() -> None:
    Story().on_its_nodes().after(1).expect(Phase.GATES, 0).after(601).expect(Phase.REFUSED, 0, says=["no answer"])


def test_no_traffic_before_every_node_has_it() -> None:
    story = Story().on_its_nodes().given(gates=PASSED, missing=("gpu-2",)).after(60).expect(Phase.GATES, 0)
    story.given(missing=(), nodes=0).after(60).expect(Phase.GATES, 0)
    story.given(nodes=2).after(1).expect(Phase.STEPS, 0.05)


def test_a_freeze_keeps_it_from_going_forward_but_not_back() -> None:
    story = canary().given(verdicts=GOOD, frozen="It is frozen: Fri 16:00 - Mon 08:00.").after(3000)
    story.expect(Phase.STEPS, 0.05).given(frozen=None).after(1).expect(Phase.STEPS, 0.25)
    story.given(frozen="It is frozen.", verdicts=BAD).after(1).expect(Phase.ROLLED_BACK, 0)


def test_a_step_that_needs_an_approval_waits_for_it() -> None:
    steps = [{"weight": "10%"}, {"weight": "100%", "approval": True}]
    story = canary(steps=steps).given(verdicts=GOOD).after(120)
    story.expect(Phase.STEPS, 0.1, Stop.APPROVAL, ["100 % of the traffic needs an approval"])
    story.after(86400).expect(Phase.STEPS, 0.1, Stop.APPROVAL)
    story.said(Verb.APPROVE).after(120).expect(Phase.STEPS, 1.0)


def test_a_first_step_that_needs_an_approval_waits_before_any_traffic() -> None:
    story = canary(steps=[{"weight": 1, "approval": True}]).expect(Phase.GATES, 0, Stop.APPROVAL)
    story.said(Verb.APPROVE).after(1).expect(Phase.STEPS, 1.0)


def test_blue_green_switches_at_once_after_the_gates_and_keeps_blue_warm() -> None:
    story = Story(strategy="blue-green", nodes={"colour": "green"}, keep_warm="10m").on_its_nodes().after(1)
    story.expect(Phase.GATES, 0).given(gates=PASSED).after(1).expect(Phase.BAKE, 1.0)
    assert {share.release: dict(share.nodes) for share in story.split.shares} == {OLD: {}, NEW: {"colour": "green"}}
    story.said(Verb.ROLLBACK).expect(Phase.ROLLED_BACK, 0)


def test_recreate_never_has_both_loaded() -> None:
    story = Story(strategy="recreate").on_its_nodes().after(1).expect(Phase.GATES, 0)
    assert [*story.split.releases] == [OLD]
    story.given(gates=PASSED).after(1).expect(Phase.DONE, 1.0)
    assert [*story.split.releases] == [NEW]


def test_a_shadow_moves_no_traffic() -> None:
    story = Story(strategy="shadow").on_its_nodes().given(gates=PASSED).after(1).expect(Phase.SHADOW, 0)
    assert story.split.shadow is not None
    story.given(mirrored=49).after(300).expect(Phase.SHADOW, 0)
    story.given(mirrored=50).after(1).expect(Phase.DONE, 0)
    assert [*story.split.releases] == [OLD]


def test_a_canary_may_be_mirrored_first() -> None:
    story = Story(shadow={"share": "20%", "time": "1m", "min_requests": 5}).on_its_nodes().given(gates=PASSED).after(1)
    assert story.expect(Phase.SHADOW, 0).split.shadow.share == 0.2  # type: ignore[union-attr]
    story.given(mirrored=5).after(60).expect(Phase.STEPS, 0.05)
    assert story.split.shadow is None


def test_a_shadow_that_fails_never_gets_traffic() -> None:
    story = Story(strategy="shadow").on_its_nodes().given(gates=PASSED).after(1).given(verdicts=BAD).after(1)
    story.expect(Phase.ROLLED_BACK, 0)


def test_a_shadow_without_requests_tells_a_person() -> None:
    story = Story(strategy="shadow").on_its_nodes().given(gates=PASSED).after(1).after(300 + 3600)
    story.expect(Phase.SHADOW, 0, Stop.INCONCLUSIVE, ["only 0 of 50"])


def test_ab_keeps_its_shares_until_a_person_decides() -> None:
    story = canary(strategy="ab", steps=["40%"]).expect(Phase.STEPS, 0.4)
    assert story.split.sticky is Sticky.KEY
    story.given(verdicts=GOOD).after(120).expect(Phase.STEPS, 0.4, Stop.DECISION)
    story.said(Verb.PROMOTE).expect(Phase.BAKE, 1.0)


def test_a_person_promotes_step_by_step_or_at_once() -> None:
    story = canary().said(Verb.PROMOTE).expect(Phase.STEPS, 0.25).said(Verb.PROMOTE).expect(Phase.STEPS, 0.5)
    story.said(Verb.PROMOTE).said(Verb.PROMOTE).expect(Phase.BAKE, 1.0).said(Verb.PROMOTE).expect(Phase.DONE, 1.0)


@pytest.mark.parametrize("verb", [Verb.ABORT, Verb.ROLLBACK])
@pytest.mark.parametrize("told", ["preparing", "gates", "steps", "paused", "held", "bake"])
def test_everything_can_be_taken_back_at_any_time(verb: Verb, told: str) -> None:
    story = Story()
    if told == "gates":
        story.on_its_nodes().after(1)
    elif told != "preparing":
        story = canary()
    if told == "paused":
        story.said(Verb.PAUSE)
    elif told == "held":
        story.after(3600)
    elif told == "bake":
        story.said(Verb.PROMOTE, full=True)
    story.said(verb).expect(Phase.ABORTED if verb is Verb.ABORT else Phase.ROLLED_BACK, 0)
    assert [*story.split.releases] == [OLD]
    with pytest.raises(Conflict, match="is over"):
        story.said(verb)


def test_a_pause_keeps_the_share_and_begins_the_step_anew() -> None:
    story = canary().given(verdicts=GOOD).said(Verb.PAUSE).after(86400).expect(Phase.STEPS, 0.05, Stop.PAUSED)
    story.said(Verb.RESUME).after(119).expect(Phase.STEPS, 0.05).after(1).expect(Phase.STEPS, 0.25)


@pytest.mark.parametrize(("verb", "hint"), [(Verb.RESUME, "watch"), (Verb.APPROVE, "show")], ids=["resume", "approve"])
def test_what_does_not_fit_is_refused_with_the_next_step(verb: Verb, hint: str) -> None:
    with pytest.raises(Conflict) as caught:
        canary().said(verb)
    assert hint in (caught.value.hint or "")


def test_nothing_is_promoted_before_its_gates() -> None:
    with pytest.raises(Conflict, match="gates"):
        Story().said(Verb.PROMOTE)


def test_pins_and_stickiness_of_the_traffic_survive_a_rollout() -> None:
    story = Story(sticky="session")
    pins = (Pin(PinKind.KEY, "k1", OLD),)
    story.split = Split("m", story.split.shares, pins=pins, sticky=Sticky.KEY, salt="before")
    story.on_its_nodes().given(gates=PASSED, verdicts=OPEN).after(1)
    assert (story.split.sticky, story.split.salt, story.split.pins) == (Sticky.SESSION, "r1", pins)
    story.said(Verb.ABORT)
    assert story.split.pins == pins

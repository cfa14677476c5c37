"""Names, bounds and pins: pure decisions, a row a rule."""

from typing import Any

import pytest

from deployment.access import Sizes
from deployment.errors import InvalidRequest, ModelNotFound, PayloadTooLarge
from deployment.gateway.inference import (
    LOAD_OPTIONS,
    Asked,
    Bounds,
    Inference,
    may_ask,
    most_read,
    most_tokens,
    to_call,
    understand,
)
from deployment.gateway.neutral import pattern_of
from deployment.releases import Split, Traits
from deployment.releases.traffic import Pin, PinKind, Share
from deployment.settings import ModelSettings

SERVED = ("ramsey-model",)
ANY_SIZE = Sizes()
UNKNOWN = Traits()


@pytest.mark.parametrize(
    ("asked", "release"),
    [
        (None, None),
        ("ramsey-model", None),
        ("ramsey-model:latest", None),
        ("Ramsey-Model", None),
        ("library/ramsey-model", None),
        ("ramsey-model:v1.0", "ramsey-model:v1.0"),
        ("Ramsey-Model:V1.0", "ramsey-model:v1.0"),
    ],
)
def test_a_name_leads_to_a_model_or_a_release(asked: str | None, release: str | None) -> None:
    name = asked or "ramsey-model"
    assert understand(asked, SERVED, "ramsey-model") == Asked(name, "ramsey-model", release)


@pytest.mark.parametrize(
    "asked", ["other", "secret:v9", "ramsey-model:v1.1:x", "../ramsey-model", "ramsey model", "x" * 500]
)
def test_what_is_not_served_is_not_found(asked: str) -> None:
    with pytest.raises(ModelNotFound) as problem:
        understand(asked, SERVED, "ramsey-model")
    assert "ramsey-model" in (problem.value.hint or "")
    assert len(problem.value.message) < 200


SPLIT = Split(
    "m",
    (Share("m:live", 1.0), Share("m:warm", 0.0), Share("m:pinned", 0.0)),
    pins=(Pin(PinKind.TENANT, "acme", "m:pinned"),),
)


@pytest.mark.parametrize(
    ("release", "anybody", "who_sees_releases"),
    [
        ("m:live", True, True),
        ("m:pinned", True, True),
        ("m:warm", False, True),
        ("m:old", False, True),
        ("m:nowhere", False, False),
    ],
)
def test_a_release_without_traffic_is_for_who_may_see_releases(
    release: str, anybody: bool, who_sees_releases: bool
) -> None:
    present = ["m:old", "m:live"]
    assert may_ask(release, SPLIT, present, every=False) is anybody
    assert may_ask(release, SPLIT, present, every=True) is who_sees_releases


@pytest.mark.parametrize(
    "asked", ["ramsey-model:cloud", "ramsey-model-cloud", "gpt-oss:120b-cloud", "RAMSEY-MODEL:CLOUD"]
)
def test_a_name_that_would_leave_for_the_cloud_is_refused(asked: str) -> None:
    with pytest.raises(InvalidRequest, match="cloud"):
        understand(asked, SERVED, "ramsey-model")


def call_of(
    body: dict[str, Any], stream: bool = False, sizes: Sizes = ANY_SIZE, traits: Traits = UNKNOWN, **settings: Any
) -> tuple[dict[str, Any], list[str]]:
    inference = Inference("/api/generate", None, body, stream)
    bounds = Bounds.of(ModelSettings(**settings), sizes, traits)
    call, ignored = to_call(inference, "ramsey-model:v1.1", bounds, pattern_of(None), tenant="t", session=None)
    return call.body, ignored


@pytest.mark.parametrize("option", sorted(LOAD_OPTIONS))
def test_an_option_that_would_reload_the_model_is_dropped_and_named(option: str) -> None:
    body, ignored = call_of({"prompt": "x", "options": {option: 1, "top_k": 3}})
    assert body["options"] == {"top_k": 3}
    assert ignored == [f"options.{option}"]


def test_keep_alive_and_shift_are_the_release_s() -> None:
    body, ignored = call_of({"prompt": "x", "keep_alive": 0, "shift": False}, keep_alive="30m")
    assert body["keep_alive"] == "30m"
    assert "shift" not in body
    assert ignored == ["keep_alive", "shift"]


@pytest.mark.parametrize(("wish", "got"), [(10, 10), (100, 100), (101, 100), (-1, 100), (-2, 100), (0, 0)])
def test_the_wish_for_tokens_is_bounded(wish: int, got: int) -> None:
    body, _ = call_of({"prompt": "x", "options": {"num_predict": wish}}, max_tokens=100)
    assert body["options"]["num_predict"] == got


def test_an_absent_wish_is_the_release_s_own() -> None:
    body, ignored = call_of({"prompt": "x", "system": None, "options": {"seed": None}}, stream=True)
    assert body == {"prompt": "x", "options": {}, "stream": True, "keep_alive": -1}
    assert ignored == []


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "x" * 11},
        {"prompt": "x" * 6, "system": "y" * 5},
        {"messages": [{"content": "x" * 6}, {"content": "y" * 5}, {"content": None}]},
    ],
)
def test_everything_that_the_model_reads_counts_as_prompt(body: dict[str, Any]) -> None:
    with pytest.raises(PayloadTooLarge, match="11 characters"):
        call_of(body, max_prompt_chars=10)
    call_of(body, max_prompt_chars=11)


def test_the_caller_s_own_bounds_hold_where_they_are_narrower() -> None:
    with pytest.raises(PayloadTooLarge):
        call_of({"prompt": "x" * 6}, sizes=Sizes(max_prompt_chars=5), max_prompt_chars=10)
    body, _ = call_of({"prompt": "x"}, sizes=Sizes(max_output_tokens=7), max_tokens=100)
    assert body["options"]["num_predict"] == 7, "also without a wish"
    body, _ = call_of({"prompt": "x", "options": {"num_predict": 3}}, sizes=Sizes(max_output_tokens=7))
    assert body["options"]["num_predict"] == 3


def test_an_answer_is_no_longer_than_the_release_s_context() -> None:
    traits = Traits(context=512, answer=160)
    for wish, becomes in ((100, 100), (400, 400), (4096, 512), (-1, 512)):
        body, _ = call_of({"prompt": "x", "options": {"num_predict": wish}}, traits=traits)
        assert body["options"]["num_predict"] == becomes
    body, _ = call_of({"prompt": "x"}, traits=traits)
    assert "num_predict" not in body["options"], "the release has its own"
    body, _ = call_of({"prompt": "x"}, traits=traits, sizes=Sizes(max_output_tokens=300))
    assert body["options"]["num_predict"] == 160, "a limit makes no answer longer"


@pytest.mark.parametrize(
    ("body", "least"),
    [
        ({"prompt": "x" * 100, "options": {"num_predict": 50}}, 150),
        ({"prompt": "x" * 100, "suffix": "y" * 50, "options": {"num_predict": 0}}, 150),
        ({"prompt": "数" * 100, "options": {"num_predict": 0}}, 300),
        ({"messages": [{"content": "x" * 10}, {"content": None}], "options": {}}, 10 + 1000),
        ({"messages": [{"content": "", "thinking": "t" * 500}], "options": {}}, 500 + 1000),
        ({"messages": [{"content": "", "tool_calls": [{"function": "t" * 500}]}], "options": {}}, 500 + 1000),
        ({"messages": [{"content": "x"}], "tools": [{"name": "t" * 500}], "options": {}}, 500 + 1000),
    ],
)
def test_what_is_reserved_is_never_less_than_what_can_be_used(body: dict[str, Any], least: int) -> None:
    bounds = Bounds.of(ModelSettings(max_tokens=1000), ANY_SIZE, Traits(preamble=70))
    assert sum(most_tokens(body, bounds, wished=False)) >= least + 70


def test_what_is_embedded_is_charged_by_its_bytes() -> None:
    assert most_read({"input": ["a" * 5, "数" * 5]}) >= 20
    assert most_read({"input": ["a"] * 2048}) >= 3 * 2048, "each has its begin and end"


@pytest.mark.parametrize(
    ("wish", "prompt", "own", "most"),
    [
        (None, 10, None, (42, 470)),  # together the context
        (None, 10, 160, (42, 160)),
        (None, 400, None, (432, 256)),
        (None, 9000, None, (512, 256)),
        (None, 9000, 100, (512, 100)),
        (500, 10, 160, (42, 500)),  # a wish is not cut
        (500, 9000, None, (512, 500)),
    ],
)
def test_no_more_than_the_context_is_reserved(
    wish: int | None, prompt: int, own: int | None, most: tuple[int, int]
) -> None:
    bounds = Bounds.of(ModelSettings(), ANY_SIZE, Traits(context=512, answer=own))
    options = {} if wish is None else {"num_predict": wish}
    assert most_tokens({"prompt": "x" * prompt, "options": options}, bounds, wished=wish is not None) == most

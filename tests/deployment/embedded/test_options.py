"""Options and durations, as tables."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployment.embedded.options import (
    FOR_EVER,
    InvalidOption,
    load_options,
    merge,
    parse_keep_alive,
    sampling,
)
from deployment.errors import InvalidRequest


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (0, 0.0),
        (300, 300.0),
        (1.5, 1.5),
        (-1, FOR_EVER),
        ("0", 0.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("250ms", 0.25),
        ("1.5s", 1.5),
        ("-1m", FOR_EVER),
    ],
)
def test_keep_alive(value: Any, seconds: float | None) -> None:
    assert parse_keep_alive(value) == pytest.approx(seconds) if seconds else parse_keep_alive(value) == seconds


@pytest.mark.parametrize("value", ["300", "-1", "", "5 m", "m", "5x", "5m3", True, [], {}])
def test_a_wrong_keep_alive(value: Any) -> None:
    with pytest.raises(InvalidRequest):
        parse_keep_alive(value)


def test_the_request_wins_over_the_model_over_the_defaults() -> None:
    merged = merge({"temperature": 0, "top_k": 5}, {"top_k": 7.9, "unknown": 1, "seed": None})
    assert (merged["temperature"], merged["top_k"], merged["top_p"], merged["seed"]) == (0.0, 7, 0.9, -1)


@pytest.mark.parametrize(
    ("name", "value", "go_type"),
    [
        ("temperature", "hot", "float32"),
        ("temperature", True, "float32"),
        ("num_ctx", "512", "int"),
        ("use_mmap", 1, "bool"),
        ("stop", [1], "array of strings"),
    ],
)
def test_a_wrong_type_is_told_in_ollamas_words(name: str, value: Any, go_type: str) -> None:
    with pytest.raises(InvalidOption, match=f'option "{name}" must be of type {go_type}'):
        merge({}, {name: value})


@pytest.mark.parametrize(
    ("wanted", "trained", "context"), [(None, 512, 512), (256, 512, 256), (9999, 512, 512), (2, None, 4)]
)
def test_the_context_is_clamped_to_the_training(wanted: int | None, trained: int | None, context: int) -> None:
    merged = merge({}, {"num_ctx": wanted})
    options = load_options(merged, trained=trained, context=4096, threads=2, gpu_layers=-1, shift=True)
    assert options.context == context
    assert options.batch <= context


def test_sampling_in_llamas_words() -> None:
    fields = sampling(merge({}, {"num_keep": 3, "num_predict": 10, "stop": "x"}), 512)
    assert (fields["n_keep"], fields["n_predict"], fields["stop"]) == (3, 10, ["x"])
    assert "seed" not in fields
    assert sampling(merge({}, {"seed": 1}), 512)["seed"] == 1


@given(limit=st.integers(-10, 10**9), context=st.integers(4, 10**6))
def test_no_answer_is_endless(limit: int, context: int) -> None:
    allowed = sampling(merge({}, {"num_predict": limit}), context)["n_predict"]
    assert 0 <= allowed <= 10 * context
    assert math.isfinite(allowed)

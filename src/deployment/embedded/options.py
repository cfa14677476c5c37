"""Ollama's `options` and `keep_alive`: their types, defaults, and what they are called in llama.cpp."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deployment.errors import InvalidRequest, RamseyError

FOR_EVER = math.inf

# Ollama's name -> (type, default). Load-time options start another runner when they differ.
LOAD_OPTIONS: dict[str, tuple[type, Any]] = {
    "num_ctx": (int, None),
    "num_batch": (int, None),
    "num_gpu": (int, None),
    "main_gpu": (int, None),
    "use_mmap": (bool, None),
    "num_thread": (int, None),
}
REQUEST_OPTIONS: dict[str, tuple[type, Any]] = {
    "num_keep": (int, 4),
    "seed": (int, -1),
    "num_predict": (int, -1),
    "top_k": (int, 40),
    "top_p": (float, 0.9),
    "min_p": (float, 0.0),
    "typical_p": (float, 1.0),
    "repeat_last_n": (int, 64),
    "temperature": (float, 0.8),
    "repeat_penalty": (float, 1.0),
    "presence_penalty": (float, 0.0),
    "frequency_penalty": (float, 0.0),
    "stop": (list, []),
}
_GO_TYPES = {int: "int", float: "float32", bool: "bool", list: "array of strings"}
# llama.cpp calls the rest as Ollama does.
_LLAMA_NAMES = {"num_keep": "n_keep"}
# Ollama's guard against a model that never ends: so many contexts at most.
_MAX_CONTEXTS = 10
_MIN_CONTEXT = 4
_TOO_BIG = 1 << 63

_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class LoadOptions:
    """What a runner is started with. Requests that agree on it share a runner.

    `context` is in tokens, for one slot; `batch` in tokens; `gpu_layers` -1 and `mmap` None = automatic.
    """

    context: int
    batch: int
    gpu_layers: int
    main_gpu: int
    mmap: bool | None
    threads: int
    shift: bool


class InvalidOption(RamseyError):
    """An option of the wrong type. Ollama answers 500, and clients know the text."""

    code = "invalid_option"
    status = 500


def merge(params: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
    """Built-in defaults < the model's PARAMETERs < the request's options, each checked and converted.

    Unknown names are ignored, as Ollama does. Raises InvalidOption for a value of the wrong type.
    """
    known = LOAD_OPTIONS | REQUEST_OPTIONS
    merged = {name: default for name, (_, default) in known.items()}
    for source in (params, request):
        for name, value in source.items():
            if name in known and value is not None:
                merged[name] = _convert(name, value, known[name][0])
    return merged


def load_options(
    merged: Mapping[str, Any], *, trained: int | None, context: int, threads: int, gpu_layers: int, shift: bool
) -> LoadOptions:
    """The load-time part of `merge`'s result; `trained` is the context that the model was trained for."""
    wanted = max(merged["num_ctx"] or context, _MIN_CONTEXT)
    tokens = min(wanted, trained) if trained else wanted
    return LoadOptions(
        context=tokens,
        # An embedding must fit one batch, so a batch is the whole context where that is small.
        batch=min(tokens, max(merged["num_batch"] or 512, 32)),
        gpu_layers=gpu_layers if merged["num_gpu"] is None else merged["num_gpu"],
        main_gpu=merged["main_gpu"] or 0,
        mmap=merged["use_mmap"],
        threads=merged["num_thread"] or threads,
        shift=shift,
    )


def sampling(merged: Mapping[str, Any], context: int) -> dict[str, Any]:
    """The per-request part of `merge`'s result, as fields of a llama.cpp request."""
    fields = {_LLAMA_NAMES.get(name, name): merged[name] for name in REQUEST_OPTIONS}
    limit = fields.pop("num_predict")
    most = _MAX_CONTEXTS * context
    fields["n_predict"] = most if limit < 0 else min(limit, most)
    if fields["seed"] < 0:
        del fields["seed"]  # llama.cpp then draws one
    if not fields["stop"]:
        del fields["stop"]
    return fields


def parse_keep_alive(value: Any) -> float | None:
    """Seconds; FOR_EVER for a negative value; None when nothing is asked. Takes numbers and Go durations."""
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return FOR_EVER if value < 0 else float(value)
    if isinstance(value, str):
        return _duration(value)
    raise InvalidRequest(f"keep_alive must be a number of seconds or a duration, not {value!r}")


def _duration(text: str) -> float:
    body = text.lstrip("+-")
    if body == "0":
        return 0.0
    if not body or "".join(match[0] for match in _DURATION.finditer(body)) != body:
        missing = re.fullmatch(r"[\d.]+", body)
        why = "missing unit in duration" if missing else "invalid duration"
        raise InvalidRequest(f'time: {why} "{text}"')
    seconds = sum(float(match[1]) * _UNITS[match[2]] for match in _DURATION.finditer(body))
    return FOR_EVER if text.startswith("-") else seconds


def _convert(name: str, value: Any, wanted: type) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if wanted is int and number and math.isfinite(value) and abs(value) < _TOO_BIG:
        return int(value)
    if wanted is float and number and math.isfinite(value):
        return float(value)
    if wanted is bool and isinstance(value, bool):
        return value
    if wanted is list:
        if isinstance(value, str):
            return [value] if value else []
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            return [each for each in value if each]
    raise InvalidOption(f'option "{name}" must be of type {_GO_TYPES[wanted]}')

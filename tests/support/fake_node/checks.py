"""What Ollama refuses before it generates, with its own statuses and texts."""

import re
from typing import Any

from tests.support.fake_node.exchange import Refused
from tests.support.fake_node.models import FOREVER_S, FakeModel
from tests.support.fake_node.store import Store

_INTS = {"num_ctx", "num_batch", "num_gpu", "num_thread", "num_keep", "seed", "num_predict", "top_k"}
_FLOATS = {"temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty"}
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")


def check(model: FakeModel, body: dict[str, Any], chat: bool, store: Store) -> float | None:
    """Raise what Ollama would; return keep_alive in seconds (None: not given)."""
    what = "chat" if chat else "generate"
    if model.weights not in store.blobs or "completion" not in model.capabilities:
        raise Refused(400, f'"{model.name}" does not support {what}')
    if body.get("tools") and "tools" not in model.capabilities:
        raise Refused(400, f"{model.name} does not support tools")
    if body.get("suffix") and "insert" not in model.capabilities:
        raise Refused(400, f'"{model.name}" does not support insert')
    if body.get("think") and "thinking" not in model.capabilities:
        raise Refused(400, f'"{model.name}" does not support thinking')
    if body.get("raw") and any(body.get(key) for key in ("system", "template", "context")):
        raise Refused(400, "raw mode does not support template, system, or context")
    if not 0 <= body.get("top_logprobs", 0) <= 20:
        raise Refused(400, "top_logprobs must be between 0 and 20")
    wanted = body.get("format")
    if wanted not in {None, "", "json"} if not isinstance(wanted, dict) else False:
        raise Refused(500, f'invalid format: {wanted!r}; expected "json" or a valid JSON Schema object')
    for key, value in (body.get("options") or {}).items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if key in _INTS and not number:
            raise Refused(500, f'option "{key}" must be of type integer')
        if key in _FLOATS and not number:
            raise Refused(500, f'option "{key}" must be of type float32')
        if key == "stop" and not isinstance(value, list):
            raise Refused(500, 'option "stop" must be of type array')
    return _keep_alive(body.get("keep_alive"))


def _keep_alive(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, int | float):
        return FOREVER_S if value < 0 else float(value)
    parts = _DURATION.findall(str(value))
    if not parts or "".join(number + unit for number, unit in parts) != str(value).lstrip("-"):
        raise Refused(400, f'time: missing unit in duration "{value}"')
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    return FOREVER_S if str(value).startswith("-") else seconds

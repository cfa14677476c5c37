"""Which calls always have the same answer, and what tells one from another. Pure."""

import hashlib
from typing import Any

import orjson

from deployment.engines import Call

_NOT_PART_OF_THE_ANSWER = frozenset({"keep_alive"})


def is_deterministic(call: Call) -> bool:
    """Whether asking twice gives the same answer: temperature 0 or a seed, and no tools."""
    body = call.body
    if body.get("tools") or body.get("context") or not (body.get("prompt") or body.get("messages")):
        return False
    options: dict[str, Any] = body.get("options") or {}
    return options.get("temperature") == 0 or options.get("seed") is not None


def key_of(call: Call) -> bytes:
    """32 bytes. Tenant and release are part of it, so that no answer ever crosses from one to another."""
    body = {name: value for name, value in call.body.items() if name not in _NOT_PART_OF_THE_ANSWER}
    parts = [call.tenant, call.release, call.path, body]
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).digest()


def split_question(call: Call) -> tuple[bytes, str] | None:
    """The scope of a question and its text: everything else must be equal for answers to be alike.

    None where there is no last question of a user.
    """
    body = dict(call.body)
    if messages := body.get("messages"):
        last = messages[-1]
        if last.get("role") != "user" or not isinstance(last.get("content"), str) or last.get("images"):
            return None
        question = last["content"]
        body["messages"] = messages[:-1]
    else:
        question = body.pop("prompt", None) or ""
    body.pop("keep_alive", None)
    if not question:
        return None
    scope = [call.tenant, call.release, call.path, body]
    return hashlib.sha256(orjson.dumps(scope, option=orjson.OPT_SORT_KEYS)).digest(), question

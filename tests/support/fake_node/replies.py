"""What a fake node says: pieces of an answer, their lines, and the last object with its counts. Pure."""

from functools import lru_cache
from typing import Any

import orjson
from tests.support.fake_node.models import FakeModel, sha256

CREATED = "2026-11-24T00:00:00.000000001Z"
TOOL_CALL = {"id": "call_fake0001", "function": {"index": 0, "name": "", "arguments": {"n": 3}}}
REPEATED = [("text", "la ")] * 31
"""What sets off the repeat guard."""


def pieces(model: FakeModel, body: dict[str, Any], tokens: int | None) -> tuple[list[tuple[str, str]], str]:
    """The answer as (kind, text), and why it ends."""
    if tools := body.get("tools"):
        return [("tool", tools[0]["function"]["name"])], "stop"
    words = ['{"answer"', ": ", "6", "}"] if body.get("format") else model.words()
    count = tokens or len(words)
    limit = (body.get("options") or {}).get("num_predict", -1)
    reason = "length" if 0 < limit < count else "stop"
    count = min(count, limit) if limit > 0 else count
    kind = "logprobs" if body.get("logprobs") else "text"
    said = [(kind, words[n % len(words)]) for n in range(count)]
    if body.get("think"):
        said = [("thinking", "Let me "), ("thinking", "think."), *said]
    return said, reason


@lru_cache(maxsize=4096)
def line(name: str, chat: bool, kind: str, text: str, thinking: str = "") -> bytes:
    said: dict[str, Any] = {("content" if chat else "response"): text if kind in {"text", "logprobs"} else ""}
    if kind == "thinking" or thinking:
        said["thinking"] = thinking or text
    if kind == "tool":
        function = {**TOOL_CALL["function"], "name": text}  # type: ignore[dict-item]
        said["tool_calls"] = [{**TOOL_CALL, "function": function}]
    if chat:
        said = {"message": {"role": "assistant", **said}}
    line = {"model": name, "created_at": CREATED, **said, "done": False}
    if kind == "logprobs":
        line["logprobs"] = [{"token": text, "logprob": -0.1, "bytes": list(text.encode())}]
    return orjson.dumps(line) + b"\n"


def joined(pieces: list[tuple[str, str]]) -> tuple[str, str, str]:
    thinking = "".join(text for kind, text in pieces if kind == "thinking")
    spoken = [text for kind, text in pieces if kind != "thinking"]
    return ("tool" if pieces[0][0] == "tool" else "text"), "".join(spoken), thinking


def end(model: FakeModel, chat: bool, reason: str, prompt: int, count: int, load_s: float) -> dict[str, Any]:
    """The last object; counts that are 0 are left out, as Ollama does."""
    end: dict[str, Any] = {"model": model.name, "created_at": CREATED}
    end |= {"message": {"role": "assistant", "content": ""}} if chat else {"response": ""}
    end |= {"done": True, "done_reason": reason}
    load, each = int(load_s * 1e9), 1_000_000
    counts = {
        "total_duration": load + (prompt + count) * each,
        "load_duration": load,
        "prompt_eval_count": prompt,
        "prompt_eval_duration": prompt * each,
        "eval_count": count,
        "eval_duration": count * each,
    }
    return end | {key: value for key, value in counts.items() if value}


def prompt_tokens(body: dict[str, Any], chat: bool) -> int:
    if not chat:
        return len(str(body.get("prompt", "")).split())
    return sum(len(str(message.get("content", "")).split()) for message in body["messages"])


def vector(text: str, size: int) -> list[float]:
    seed = bytes.fromhex(sha256(text))
    raw = [(seed[n % 32] - 127.5) / 128 for n in range(size)]
    norm = sum(value * value for value in raw) ** 0.5
    return [value / norm for value in raw]

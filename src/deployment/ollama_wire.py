"""Ollama's wire format without the wire: lines, events, and which error an answer means. Pure."""

import re
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from deployment.errors import (
    EngineBusy,
    EngineCrashed,
    EngineError,
    EngineProtocolError,
    EngineRefused,
    EngineTimeout,
    EngineUnavailable,
    ModelMissing,
    StreamIncomplete,
)

MAX_LINE_BYTES = 8 * 1024 * 1024
"""Ollama's own bound on a line of its runner."""

_CRASHES = (
    "model runner has unexpectedly stopped",
    "an error was encountered while running the model",
    "llama-server process no longer running",
    "llama-server process has terminated",
    "timed out waiting for llama-server to start",
    "llama-server binary not found",
)
_NO_MODEL = re.compile(r"model .* not found|^model not found", re.IGNORECASE)
# The answer when a GGUF was lost: its capabilities are read from it at each request.
_LOST_BLOB = re.compile(r"does not support (generate|chat)\b")
# The caller's mistakes that Ollama answers with 500.
_CALLERS_500 = re.compile(r'^option "[^"]*" must be of type|^invalid format\b')
# llama.cpp's words go on with "try increasing it", which a caller cannot.
_TOO_LONG = re.compile(r"\((\d+) tokens\) exceeds the available context size \((\d+) tokens\)")
# Statuses that speak of how we reach the node, not of the request.
_NOT_THE_CALLERS = {401, 403, 404, 405, 407, 408, 421, 425, 499}
_TEXT_LIMIT = 2000
_END_FIELDS = {
    "done",
    "done_reason",
    "context",
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
}


@dataclass(slots=True)
class Delta:
    """One piece of an answer.

    `raw` is the node's own object with `done` false, so that fields that we don't know pass through.
    """

    text: str
    thinking: str
    tool_calls: list[dict[str, Any]] | None
    logprobs: list[dict[str, Any]] | None
    raw: dict[str, Any]


@dataclass(slots=True)
class Done:
    """The end marker was seen. Durations in milliseconds; what Ollama left out is 0.

    `reason` is stop, length, load or unload. `raw` is the node's own last object without text, which
    came before it as a Delta.
    """

    reason: str
    prompt_tokens: int
    completion_tokens: int
    total_ms: float
    load_ms: float
    prompt_ms: float
    completion_ms: float
    raw: dict[str, Any]


Event = Delta | Done


@dataclass(slots=True)
class Generation:
    """A whole answer."""

    text: str
    thinking: str
    done: Done
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)


Take = Callable[[Event], Awaitable[None] | None]
"""Takes an event; returns what to wait for before the next one, mostly nothing. It is called where the event came in,
by no task: that is what makes a token cheap."""


async def give(events: Iterable[Event], take: Take) -> None:
    """Give events that are here to `take`, each when it is ready for it."""
    for event in events:
        if (slow := take(event)) is not None:
            await slow


class Gathered:
    """The events of one answer, joined."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._tool_calls: list[dict[str, Any]] = []
        self._logprobs: list[dict[str, Any]] = []
        self._done: Done | None = None

    def take(self, event: Event) -> None:
        """The next one."""
        if isinstance(event, Done):
            self._done = event
            return
        self._texts.append(event.text)
        if event.thinking:
            self._thoughts.append(event.thinking)
        if event.tool_calls:
            self._tool_calls += event.tool_calls
        if event.logprobs:
            self._logprobs += event.logprobs

    def whole(self) -> Generation:
        """All of it. Raises StreamIncomplete when no Done came."""
        if self._done is None:
            raise incomplete()
        return Generation("".join(self._texts), "".join(self._thoughts), self._done, self._tool_calls, self._logprobs)


async def collect(events: AsyncIterable[Event]) -> Generation:
    """Join a stream. Raises StreamIncomplete when no Done came."""
    gathered = Gathered()
    async for event in events:
        gathered.take(event)
    return gathered.whole()


class LineSplitter:
    """Whole lines out of chunks that are cut anywhere. Holds at most MAX_LINE_BYTES."""

    __slots__ = ("_held", "_parts")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._held = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that `chunk` completes, without their ends; some may be empty."""
        lines = chunk.split(b"\n")
        rest = lines.pop()
        if self._held and lines:
            lines[0] = b"".join((*self._parts, lines[0]))
            self._parts.clear()
            self._held = 0
            if len(lines[0]) > MAX_LINE_BYTES:
                raise _too_long()
        if rest:
            self._parts.append(rest)
            self._held += len(rest)
            if self._held > MAX_LINE_BYTES:
                raise _too_long()
        return lines

    def rest(self) -> bytes:
        """What is left at the end: a last line without its end, or half of one."""
        return b"".join(self._parts)


def object_of(line: bytes) -> dict[str, Any]:
    """The object on a line of an answer with status 200. Raises what an error line means."""
    try:
        raw = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise EngineProtocolError(f"The engine sent what is not JSON: {_shown(line)}.") from None
    if type(raw) is not dict:
        raise EngineProtocolError(f"The engine sent JSON that is not an object: {_shown(line)}.")
    if "error" in raw:
        raise error_of(200, line)
    return raw


def delta_of(raw: dict[str, Any]) -> Delta:
    """One piece of an answer of /api/chat (a message) or /api/generate (a response)."""
    message = raw.get("message")
    if message is None:
        text = raw.get("response")
        if text is None and "done" not in raw:
            raise EngineProtocolError("The engine sent an object that is no part of an answer.")
        message = raw
    elif type(message) is dict:
        text = message.get("content")
    else:
        raise EngineProtocolError("The engine sent a message that is not an object.")
    text = text or ""
    thinking = message.get("thinking") or ""
    if type(text) is not str or type(thinking) is not str:
        raise EngineProtocolError("The engine sent a text that is not a string.")
    tool_calls, logprobs = message.get("tool_calls"), raw.get("logprobs")
    if (tool_calls and type(tool_calls) is not list) or (logprobs and type(logprobs) is not list):
        raise EngineProtocolError("The engine sent tool calls or log-probabilities that are not a list.")
    return Delta(text, thinking, tool_calls, logprobs, raw)


def end_of(raw: dict[str, Any]) -> tuple[Delta | None, Done]:
    """The last object of an answer: what it says (None if nothing) and the end marker."""
    said = {key: value for key, value in raw.items() if key not in _END_FIELDS}
    delta: Delta | None = delta_of({**said, "done": False})
    if delta and not (delta.text or delta.thinking or delta.tool_calls or delta.logprobs):
        delta = None
    else:
        raw = _without_text(raw)
    reason = raw.get("done_reason") or "stop"
    if type(reason) is not str:
        raise EngineProtocolError("The engine sent a reason for the end that is not a string.")
    try:
        done = Done(
            reason=reason,
            prompt_tokens=int(raw.get("prompt_eval_count", 0)),
            completion_tokens=int(raw.get("eval_count", 0)),
            total_ms=raw.get("total_duration", 0) / 1e6,
            load_ms=raw.get("load_duration", 0) / 1e6,
            prompt_ms=raw.get("prompt_eval_duration", 0) / 1e6,
            completion_ms=raw.get("eval_duration", 0) / 1e6,
            raw=raw,
        )
    except (TypeError, ValueError):
        raise EngineProtocolError("The engine sent counts that are not numbers.") from None
    return delta, done


def _without_text(raw: dict[str, Any]) -> dict[str, Any]:
    end = {key: value for key, value in raw.items() if key not in {"thinking", "tool_calls", "logprobs"}}
    if end.get("message"):
        end["message"] = {"role": end["message"].get("role", "assistant"), "content": ""}
    if "response" in end:
        end["response"] = ""
    return end


def incomplete(why: str = "The answer ended without its end marker") -> StreamIncomplete:
    """The stream is over, and nothing said that the answer is."""
    return StreamIncomplete(f"{why}; it may be cut.")


def error_text(body: bytes) -> tuple[int | None, str]:
    """The text of an error body, and the status inside it where it wraps one (llama-server's own JSON)."""
    text = body.decode("utf-8", "replace").strip()
    status: int | None = None
    for _ in range(4):  # {"error": "{\"error\": {\"code\": 400, \"message\": …}}"}
        if not text.startswith("{"):
            break
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            break
        inner = value.get("error", value.get("message"))
        if isinstance(inner, dict):
            code = inner.get("code")
            status = code if isinstance(code, int) else status
            inner = inner.get("message") or inner.get("type")
        if not isinstance(inner, str):
            break
        text = inner.strip()
    return status, text[:_TEXT_LIMIT]


def error_of(status: int, body: bytes) -> EngineError:
    """Which error an answer means; `status` 200 is an error line within a stream."""
    inner, text = error_text(body)
    if status == 200 and inner is not None:
        status = inner
    if any(crash in text for crash in _CRASHES):
        return EngineCrashed(f"The model's runner failed: {text}.")
    if status in {429, 503}:
        return EngineBusy(f"The engine is busy: {text or 'it says no more'}.")
    if status in {502, 504}:
        kind = EngineUnavailable if status == 502 else EngineTimeout
        return kind(f"Something before the engine answered {status}.")
    if _CALLERS_500.search(text):
        return EngineRefused(text)
    if 400 <= status < 500:
        return _refusal(status, text)
    if 300 <= status < 400:
        return EngineProtocolError(f"The engine answered with a redirect ({status}); set its final address.")
    if _NO_MODEL.search(text):
        return ModelMissing(f"The engine does not hold the model: {text}.")
    return EngineError(f"The engine failed: {text or f'status {status} without a text'}.")


def _refusal(status: int, text: str) -> EngineError:
    if status == 404 and _NO_MODEL.search(text):
        return ModelMissing(f"The engine does not hold the model: {text}.")
    if status == 400 and _LOST_BLOB.search(text):
        return ModelMissing(f"The engine cannot read the model's weights: {text}.")
    if status == 403 and text:
        return EngineRefused(text, status=403)
    if status in _NOT_THE_CALLERS:
        return EngineProtocolError(f"The engine answered {status}: {text or 'no text'}.")
    if too_long := _TOO_LONG.search(text):
        text = f"The prompt has {too_long[1]} tokens; the model's context has {too_long[2]}. Shorten the prompt."
    return EngineRefused(text or f"The engine refused the request ({status}).", status=status)


def _too_long() -> EngineProtocolError:
    return EngineProtocolError(f"The engine sent a line of more than {MAX_LINE_BYTES >> 20} MB.")


def _shown(line: bytes) -> str:
    return repr(line[:80].decode("utf-8", "replace"))

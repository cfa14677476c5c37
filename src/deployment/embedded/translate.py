"""llama.cpp's answer stream → ours → Ollama's. Pure, but for reading lines."""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from deployment.embedded.child import CRASHED
from deployment.errors import EngineCrashed, EngineError


@dataclass(frozen=True)
class Started:
    """A slot is ours; `load_ns` is how long the runner took to be there."""

    load_ns: int


@dataclass(frozen=True)
class Piece:
    """Some of the answer."""

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    logprobs: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class End:
    """The answer is complete. Durations in nanoseconds."""

    reason: str
    prompt_tokens: int = 0
    prompt_ns: int = 0
    tokens: int = 0
    eval_ns: int = 0


Event = Started | Piece | End


@dataclass
class ChatReader:
    """Reads `/v1/chat/completions`: the reason comes first, then usage and timings, then `[DONE]`."""

    top_logprobs: int
    _reason: str = ""
    _last: dict[str, Any] = field(default_factory=dict)
    _calls: dict[int, dict[str, Any]] = field(default_factory=dict)

    def read(self, data: dict[str, Any]) -> Piece | None:
        """One chunk."""
        if "timings" in data or "usage" in data:
            self._last = data
        if not (choices := data.get("choices")):
            return None
        choice = choices[0]
        self._reason = choice.get("finish_reason") or self._reason
        delta = choice.get("delta") or {}
        for call in delta.get("tool_calls") or ():
            self._add_call(call)
        logprobs = (choice.get("logprobs") or {}).get("content") or ()
        text, thinking = delta.get("content") or "", delta.get("reasoning_content") or ""
        if not (text or thinking or logprobs):
            return None
        return Piece(text, thinking, (), tuple(_logprob(each, self.top_logprobs) for each in logprobs))

    def end(self) -> list[Event]:
        """After `[DONE]`: tool calls, whole, and the end."""
        events: list[Event] = []
        if self._calls:
            events.append(Piece(tool_calls=tuple(_tool_call(call) for call in self._calls.values())))
        usage = self._last.get("usage") or {}
        reason = "length" if self._reason == "length" else "stop"
        events.append(_end(reason, self._last.get("timings") or {}, usage.get("prompt_tokens")))
        return events

    def _add_call(self, call: dict[str, Any]) -> None:
        known = self._calls.setdefault(call.get("index", 0), {"id": "", "name": "", "arguments": ""})
        function = call.get("function") or {}
        known["id"] = call.get("id") or known["id"]
        known["name"] += function.get("name") or ""
        known["arguments"] += function.get("arguments") or ""


@dataclass
class CompletionReader:
    """Reads `/completion`: the last chunk says `stop`."""

    top_logprobs: int
    _last: dict[str, Any] = field(default_factory=dict)

    def read(self, data: dict[str, Any]) -> Piece | None:
        """One chunk."""
        if data.get("stop"):
            self._last = data
        logprobs = data.get("completion_probabilities") or ()
        if not (data.get("content") or logprobs):
            return None
        logs = tuple(_logprob(each, self.top_logprobs) for each in logprobs)
        return Piece(text=data.get("content") or "", logprobs=logs)

    @property
    def ended(self) -> bool:
        """Whether the last chunk was seen."""
        return bool(self._last)

    def end(self) -> list[Event]:
        """The end."""
        reason = "length" if self._last.get("stop_type") == "limit" else "stop"
        return [_end(reason, self._last.get("timings") or {}, self._last.get("tokens_evaluated"))]


async def read_events(
    response: aiohttp.ClientResponse, reader: ChatReader | CompletionReader
) -> AsyncGenerator[Event, None]:
    """The events of a stream. Raises EngineCrashed when it ends without its end marker."""
    async for data in _server_sent(response):
        if data == b"[DONE]":
            for event in reader.end():
                yield event
            return
        chunk = orjson.loads(data)
        if "error" in chunk:
            raise EngineError(orjson.dumps(chunk).decode())
        piece = reader.read(chunk)
        if piece is not None:
            yield piece
        if isinstance(reader, CompletionReader) and reader.ended:
            for event in reader.end():
                yield event
            return
    raise EngineCrashed(CRASHED)


async def _server_sent(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    rest = b""
    async for received in response.content.iter_any():
        *lines, rest = (rest + received).split(b"\n")
        for line in lines:
            if line.startswith((b"data: ", b"error: ")):
                yield line.split(b": ", 1)[1].strip()


def _end(reason: str, timings: dict[str, Any], prompt_tokens: int | None) -> End:
    if prompt_tokens is None:
        prompt_tokens = timings.get("prompt_n", 0) + timings.get("cache_n", 0)
    return End(
        reason=reason,
        prompt_tokens=prompt_tokens,
        prompt_ns=int(timings.get("prompt_ms", 0) * 1e6),
        tokens=timings.get("predicted_n", 0),
        eval_ns=int(timings.get("predicted_ms", 0) * 1e6),
    )


def _logprob(data: dict[str, Any], top: int) -> dict[str, Any]:
    one = {"token": data["token"], "logprob": data["logprob"], "bytes": data.get("bytes") or []}
    if top:
        one["top_logprobs"] = [_logprob(each, 0) for each in (data.get("top_logprobs") or [])[:top]]
    return one


def _tool_call(call: dict[str, Any]) -> dict[str, Any]:
    try:
        arguments = orjson.loads(call["arguments"] or "{}")
    except ValueError:
        arguments = {}
    return {"id": call["id"], "function": {"name": call["name"], "arguments": arguments}}

"""What a dialect is, on the way out: an encoder over the one stream of events."""

import random
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from deployment.errors import RamseyError
from deployment.ollama_client import Delta, Done, Generation


def unique_id() -> str:
    """32 hex digits that tell answers apart. Not a secret: the system's generator would cost ten times as much."""
    return f"{random.getrandbits(128):032x}"


class Reply(NamedTuple):
    """What every answer carries: who asked for which name, and which release answers."""

    request_id: str
    model: str
    release: str
    created: int  # seconds since 1970


@dataclass(slots=True)
class Times:
    """What the gateway measured of one request, in milliseconds."""

    queue_ms: float = 0.0
    first_token_ms: float = 0.0
    total_ms: float = 0.0


class Encoder(Protocol):
    """Writes one answer in one dialect. Made per request; may keep state between the pieces."""

    media_type: str  # of the stream; a whole answer is always JSON

    def begin(self) -> bytes:
        """What comes before the first piece; may be empty."""
        ...

    def delta(self, delta: Delta) -> bytes:
        """One piece of the answer."""
        ...

    def end(self, done: Done, times: Times) -> bytes:
        """The end marker, with usage and timings."""
        ...

    def error(self, error: RamseyError) -> bytes:
        """How this dialect tells an error after its stream began. No end marker follows."""
        ...

    def whole(self, whole: Generation, times: Times) -> bytes:
        """The answer in one piece."""
        ...


def finish_reason(done: Done, tool_calls: bool) -> str:
    """OpenAI's word for why an answer ended (also ours)."""
    if tool_calls:
        return "tool_calls"
    return "length" if done.reason == "length" else "stop"


def usage(done: Done) -> dict[str, int]:
    """Tokens in, out and together."""
    return {
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": done.completion_tokens,
        "total_tokens": done.prompt_tokens + done.completion_tokens,
    }

"""What is known of one request: filled on its way, logged and counted once at its end."""

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class RequestRecord:
    """One request from wire to wire. Times in milliseconds. Never holds a prompt or a key."""

    request_id: str
    method: str
    client: str | None = None  # the address of who calls, also behind proxies that are trusted
    endpoint: str = "unmatched"
    status: int = 0
    error: str | None = None  # the code of the error that the caller was told
    key: str | None = None  # short hash of the key
    tenant: str | None = None
    model: str | None = None
    release: str | None = None
    node: str | None = None
    attempts: int = 0
    stream: bool = False
    cache: str | None = None  # hit, semantic, coalesced or miss; None where an answer may differ each time
    queue_ms: float | None = None
    first_token_ms: float | None = None
    load_ms: float = 0.0
    completion_ms: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt: str | None = None  # only where log.prompts is on

    def as_log(self, duration_ms: float) -> dict[str, Any]:
        """The fields of the log line; what is not known is left out."""
        fields: dict[str, Any] = {
            "request_id": self.request_id,
            "method": self.method,
            "endpoint": self.endpoint,
            "status": self.status,
            "response_ms": round(duration_ms, 2),
        }
        for name in ("client", "key", "tenant", "error", "model", "release", "node", "cache", "prompt"):
            if (value := getattr(self, name)) is not None:
                fields[name] = value
        if self.release:
            fields["stream"] = self.stream
            fields["attempts"] = self.attempts
            fields["prompt_tokens"] = self.prompt_tokens
            fields["completion_tokens"] = self.completion_tokens
        if self.first_token_ms is not None:
            fields["first_token_ms"] = round(self.first_token_ms, 2)
        if self.queue_ms is not None:
            fields["queue_ms"] = round(self.queue_ms, 2)
        return fields

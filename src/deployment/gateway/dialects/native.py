"""Ramsey's own API: `POST /generate`, `/chat`, `/embeddings`; streams are server-sent events."""

from typing import Annotated, Any, Literal

import orjson
from pydantic import ConfigDict, Field, model_validator

from deployment.errors import RamseyError
from deployment.gateway.dialects.fields import (
    MAX_MESSAGES,
    EmbeddingInput,
    Format,
    Image,
    ModelName,
    Probability,
    Request,
    Seed,
    Stops,
    Temperature,
    Tokens,
    fold_seed,
    stop_list,
)
from deployment.gateway.encoder import Reply, Times, finish_reason, usage
from deployment.gateway.errors_out import NATIVE, error_body
from deployment.gateway.inference import Inference
from deployment.ollama_client import Delta, Done, Generation


class Sampling(Request):
    """What `/generate` and `/chat` have in common."""

    model: ModelName | None = Field(None, description="Model, or one of its releases; the default model if absent.")
    max_tokens: Tokens = Field(512, description="Most tokens of the answer.")
    temperature: Temperature = Field(0.7, description="0 always takes the likeliest token.")
    top_p: Probability | None = Field(None, description="Sample from the likeliest tokens of this total probability.")
    stop: Stops | None = Field(None, description="Texts that end the answer; at most 16.")
    seed: Seed | None = Field(None, description="The same seed gives the same answer, on the same node.")
    format: Format | None = Field(None, description='"json", or a JSON schema that the answer must follow.')
    stream: bool = Field(False, description="Answer as server-sent events, a piece at a time.")

    @property
    def default_length(self) -> bool:
        """Whether the caller left the answer's length to us."""
        return "max_tokens" not in self.model_fields_set

    def options(self) -> dict[str, Any]:
        """In Ollama's words."""
        return {
            "num_predict": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "stop": stop_list(self.stop),
            "seed": fold_seed(self.seed),
        }


class GenerateRequest(Sampling):
    """One prompt."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "What is R(3,3)?", "max_tokens": 64}]})
    prompt: str = Field(min_length=1, description="What to answer.")
    system: str | None = Field(None, description="System prompt, in the place of the release's own.")

    def inference(self) -> Inference:
        """As a call of `/api/generate`. An over-long prompt is refused, never cut in silence."""
        body = {"prompt": self.prompt, "system": self.system, "format": self.format, "truncate": False}
        body |= {"options": self.options()}
        return Inference("/api/generate", self.model, body, self.stream, default_length=self.default_length)


class Message(Request):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    thinking: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_name: str | None = None
    images: list[Image] | None = Field(None, description="Base64 images, where the model sees.")


class ChatRequest(Sampling):
    """A conversation."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"messages": [{"role": "user", "content": "What is R(4,4)?"}]}]}
    )
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    tools: list[dict[str, Any]] | None = Field(None, description="Functions that the model may call, where it can.")
    think: bool | Literal["low", "medium", "high", "max"] | None = Field(None, description="Let the model think first.")

    @model_validator(mode="after")
    def _says_something(self) -> "ChatRequest":
        if not any(message.content or message.images for message in self.messages):
            raise ValueError("messages: at least one needs content")
        return self

    def inference(self) -> Inference:
        """As a call of `/api/chat`."""
        body: dict[str, Any] = {
            "messages": [message.model_dump(exclude_none=True) for message in self.messages],
            "tools": self.tools,
            "think": self.think,
            "format": self.format,
            "truncate": False,
            "options": self.options(),
        }
        return Inference("/api/chat", self.model, body, self.stream, default_length=self.default_length)


class EmbeddingsRequest(Request):
    """Texts to embed."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"input": ["Ramsey theory", "graph colouring"]}]})
    model: ModelName | None = None
    input: EmbeddingInput = Field(description="One text, or up to 2048.")


class NativeEncoder:
    """`/generate` and `/chat`: the same but for where the text stands."""

    media_type = "text/event-stream"

    def __init__(self, reply: Reply, *, chat: bool) -> None:
        self._reply, self._chat = reply, chat
        self._called_tools = False

    def begin(self) -> bytes:
        """Nothing comes first."""
        return b""

    def delta(self, delta: Delta) -> bytes:
        """One event with the new text."""
        self._called_tools = self._called_tools or bool(delta.tool_calls)
        return _event(self._content(delta.text, delta.thinking, delta.tool_calls))

    def end(self, done: Done, times: Times) -> bytes:
        """The last event: `done` is true, and usage and timings are there."""
        return _event({"done": True} | self._content("", "", None) | self._tail(done, times, self._called_tools))

    def error(self, error: RamseyError) -> bytes:
        """An event named `error`."""
        return b"event: error\n" + _event(error_body(error, NATIVE, self._reply.request_id))

    def whole(self, whole: Generation, times: Times) -> bytes:
        """One JSON object."""
        content = self._content(whole.text, whole.thinking, whole.tool_calls)
        return orjson.dumps(content | self._tail(whole.done, times, bool(whole.tool_calls)))

    def _content(self, text: str, thinking: str, tool_calls: list[dict[str, Any]] | None) -> dict[str, Any]:
        extra: dict[str, Any] = {"thinking": thinking} if thinking else {}
        if not self._chat:
            return {"response": text} | extra
        if tool_calls:
            extra["tool_calls"] = tool_calls
        return {"message": {"role": "assistant", "content": text} | extra}

    def _tail(self, done: Done, times: Times, called_tools: bool) -> dict[str, Any]:
        return {
            "model": self._reply.model,
            "release": self._reply.release,
            "finish_reason": finish_reason(done, called_tools),
            "usage": usage(done),
            "timings": {
                "queue_ms": round(times.queue_ms, 3),
                "load_ms": round(done.load_ms, 3),
                "prompt_ms": round(done.prompt_ms, 3),
                "completion_ms": round(done.completion_ms, 3),
                "first_token_ms": round(times.first_token_ms, 3),
                "total_ms": round(times.total_ms, 3),
            },
            "request_id": self._reply.request_id,
        }


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def embeddings_body(result: dict[str, Any], reply: Reply) -> bytes:
    """The answer of `/embeddings`."""
    tokens = result.get("prompt_eval_count", 0)
    return orjson.dumps(
        {
            "embeddings": result.get("embeddings", []),
            "model": reply.model,
            "release": reply.release,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            "request_id": reply.request_id,
        }
    )

"""OpenAI's chat completions, translated from the engine's `/api/chat`.

Not passed to a node's own `/v1`, which overrides the release's temperature, loses errors in mid-stream and gives
ids that repeat. Reference: OpenAI API, "Create chat completion".
"""

import secrets
from typing import Annotated, Any, Literal

import orjson
from pydantic import ConfigDict, Field

from deployment.errors import InvalidRequest, RamseyError
from deployment.gateway.dialects.fields import (
    MAX_MESSAGES,
    ModelName,
    OpenRequest,
    Penalty,
    Probability,
    Schema,
    Seed,
    Stops,
    Temperature,
    Tokens,
    TopLogprobs,
    fold_seed,
    is_base64,
    stop_list,
)
from deployment.gateway.encoder import Reply, Times, finish_reason, unique_id, usage
from deployment.gateway.errors_out import OPENAI, error_body
from deployment.gateway.inference import Inference
from deployment.ollama_client import Delta, Done, Generation

_EFFORT: dict[str, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
}


class TextPart(OpenRequest):
    """A piece of text in a message."""

    type: Literal["text"]
    text: str


class ImageUrl(OpenRequest):
    """Where an image is; only data: URLs, since Ramsey fetches nothing for a caller."""

    url: str


class ImagePart(OpenRequest):
    """An image in a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


class FunctionCall(OpenRequest):
    """A function that the assistant called; its arguments are JSON in a string."""

    name: str
    arguments: str = "{}"


class ToolCall(OpenRequest):
    """One call of a tool."""

    id: str | None = None
    function: FunctionCall


class ChatMessage(OpenRequest):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    def in_ollama(self) -> dict[str, Any]:
        """As a message of `/api/chat`."""
        message: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": ""}
        if isinstance(self.content, str):
            message["content"] = self.content
        elif self.content:
            message["content"] = "".join(part.text for part in self.content if isinstance(part, TextPart))
            if images := [_image(part.image_url.url) for part in self.content if isinstance(part, ImagePart)]:
                message["images"] = images
        if self.tool_calls:
            message["tool_calls"] = [_tool_call(call) for call in self.tool_calls]
        if self.tool_call_id:
            message["tool_call_id"] = self.tool_call_id
        if self.role == "tool" and self.name:
            message["tool_name"] = self.name
        return message


def _image(url: str) -> str:
    scheme, _, data = url.partition(";base64,")
    if not scheme.startswith("data:image/") or not is_base64(data):
        raise InvalidRequest("image_url: only data: URLs in base64 are taken.")
    return data


def _tool_call(call: ToolCall) -> dict[str, Any]:
    try:
        arguments = orjson.loads(call.function.arguments or "{}")
    except orjson.JSONDecodeError:
        arguments = None
    if not isinstance(arguments, dict):
        raise InvalidRequest("tool_calls.function.arguments: must be a JSON object in a string.")
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call.id, "function": function} if call.id else {"function": function}


class JsonSchema(OpenRequest):
    """A named JSON schema."""

    name: str = "answer"
    json_schema: Schema | None = Field(None, alias="schema")


class ResponseFormat(OpenRequest):
    """What form the answer takes."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def in_ollama(self) -> str | Schema | None:
        """As `format`."""
        if self.type == "json_object":
            return "json"
        if self.type == "json_schema":
            if self.json_schema is None or self.json_schema.json_schema is None:
                raise InvalidRequest("response_format.json_schema.schema: is required.")
            return self.json_schema.json_schema
        return None


class StreamOptions(OpenRequest):
    """How a stream is written."""

    include_usage: bool = False


class Sampling(OpenRequest):
    """What chat and text completions have in common. What is absent is the release's own value."""

    model: ModelName
    stream: bool | None = None
    user: Annotated[str, Field(max_length=256)] | None = Field(
        None, description="Whose request it is; where conversations are kept, it stands under this name."
    )
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    seed: Seed | None = None
    stop: Stops | None = None
    n: int | None = None
    logit_bias: dict[str, float] | None = None

    def options(self) -> dict[str, Any]:
        """In Ollama's words. Refuses what would be ignored in silence otherwise."""
        if self.n not in (None, 1):
            raise InvalidRequest("n: only 1 is offered; send the request several times.")
        if self.logit_bias:
            raise InvalidRequest("logit_bias: is not offered by this engine.")
        return {
            "num_predict": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "frequency_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty,
            "seed": fold_seed(self.seed),
            "stop": stop_list(self.stop),
        }

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatCompletionRequest(Sampling):
    """Body of `POST /v1/chat/completions`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "ramsey-model", "messages": [{"role": "user", "content": "What is R(3,3)?"}]}]
        }
    )
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Tokens | None = None
    response_format: ResponseFormat | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high"] | None = None

    def inference(self) -> Inference:
        """As a call of `/api/chat`. An over-long conversation is refused, never cut in silence."""
        if self.tool_choice not in (None, "auto", "none"):
            raise InvalidRequest('tool_choice: only "auto" and "none" are offered by this engine.')
        options = self.options()
        if self.max_completion_tokens is not None:
            options["num_predict"] = self.max_completion_tokens
        body: dict[str, Any] = {
            "messages": [message.in_ollama() for message in self.messages],
            "tools": None if self.tool_choice == "none" else self.tools or None,
            "format": self.response_format.in_ollama() if self.response_format else None,
            "think": _EFFORT[self.reasoning_effort] if self.reasoning_effort else None,
            "logprobs": self.logprobs,
            "top_logprobs": self.top_logprobs if self.logprobs else None,
            "truncate": False,
            "options": options,
        }
        # The newer name of the two, but for who uses the older one.
        newer = self.max_completion_tokens is not None or self.max_tokens is None
        field = "max_completion_tokens" if newer else "max_tokens"
        return Inference("/api/chat", self.model, body, bool(self.stream), self.user, field)


def tool_calls_out(calls: list[dict[str, Any]], first_index: int = 0) -> list[dict[str, Any]]:
    """Ollama's tool calls in OpenAI's form: an id each, and the arguments as JSON in a string."""
    return [
        {
            "index": first_index + position,
            "id": call.get("id") or "call_" + secrets.token_hex(8),
            "type": "function",
            "function": {
                "name": call["function"]["name"],
                "arguments": orjson.dumps(call["function"].get("arguments") or {}).decode(),
            },
        }
        for position, call in enumerate(calls)
    ]


def sse(data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


DONE = b"data: [DONE]\n\n"


class ChatEncoder:
    """Writes chat completions and their chunks."""

    media_type = "text/event-stream"

    def __init__(self, reply: Reply, *, include_usage: bool) -> None:
        self._reply, self._include_usage = reply, include_usage
        self._tool_calls = 0
        self._plain: bytes | None = None  # what comes before the delta of a chunk of text
        self._frame: dict[str, Any] = {
            "id": "chatcmpl-" + unique_id(),
            "object": "chat.completion.chunk",
            "created": reply.created,
            "model": reply.model,
            "system_fingerprint": reply.release,
        }

    def begin(self) -> bytes:
        """The chunk that names the role."""
        return self._chunk({"role": "assistant", "content": ""}, None, None)

    def delta(self, delta: Delta) -> bytes:
        """A chunk with the new text; thinking stands in `reasoning`."""
        piece: dict[str, Any] = {}
        if delta.text:
            piece["content"] = delta.text
        if delta.thinking:
            piece["reasoning"] = delta.thinking
        if delta.tool_calls:
            piece["tool_calls"] = tool_calls_out(delta.tool_calls, self._tool_calls)
            self._tool_calls += len(delta.tool_calls)
        if not piece and not delta.logprobs:
            return b""
        if delta.logprobs:
            return self._chunk(piece, None, delta.logprobs)
        return self._plain_chunk(piece)

    def end(self, done: Done, times: Times) -> bytes:
        """The chunk with the finish reason, the one with the usage where it was asked for, and [DONE]."""
        last = self._chunk({}, finish_reason(done, self._tool_calls > 0), None)
        if self._include_usage:
            last += sse(self._frame | {"choices": [], "usage": usage(done)})
        return last + DONE

    def error(self, error: RamseyError) -> bytes:
        """An event with `error`: the official clients raise it. No [DONE] follows."""
        return sse(error_body(error, OPENAI, self._reply.request_id))

    def whole(self, whole: Generation, times: Times) -> bytes:
        """The chat completion."""
        message: dict[str, Any] = {"role": "assistant", "content": whole.text, "refusal": None}
        if whole.thinking:
            message["reasoning"] = whole.thinking
        if whole.tool_calls:
            calls = tool_calls_out(whole.tool_calls)
            message["tool_calls"] = [{key: call[key] for key in ("id", "type", "function")} for call in calls]
            message["content"] = whole.text or None
        choice = {
            "index": 0,
            "message": message,
            "logprobs": {"content": whole.logprobs, "refusal": None} if whole.logprobs else None,
            "finish_reason": finish_reason(whole.done, bool(whole.tool_calls)),
        }
        return orjson.dumps(
            self._frame | {"object": "chat.completion", "choices": [choice], "usage": usage(whole.done)}
        )

    def _plain_chunk(self, delta: dict[str, Any]) -> bytes:
        """As `_chunk`, written around the delta: nearly every chunk of a stream is such a one."""
        if self._plain is None:
            self._plain, _, self._rest = self._chunk({}, None, None).partition(b'"delta":{}')
        return b'%s"delta":%s%s' % (self._plain, orjson.dumps(delta), self._rest)

    def _chunk(self, delta: dict[str, Any], finish: str | None, logprobs: list[dict[str, Any]] | None) -> bytes:
        choice: dict[str, Any] = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        if logprobs:
            choice["logprobs"] = {"content": logprobs, "refusal": None}
        frame = self._frame | {"choices": [choice]}
        if self._include_usage:
            frame["usage"] = None
        return sse(frame)

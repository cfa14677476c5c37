"""OpenAI's `POST /v1/responses`, stateless, translated from `/api/chat`.

Reference: OpenAI API, "Create a model response" and "Streaming events". Nothing is stored, so a response cannot
be continued by its id: send the whole conversation.
"""

from typing import Annotated, Any, Literal

import orjson
from pydantic import ConfigDict, Field

from deployment.errors import InvalidRequest, RamseyError
from deployment.gateway.dialects.fields import (
    MAX_MESSAGES,
    ModelName,
    OpenRequest,
    Probability,
    Schema,
    Temperature,
    Tokens,
)
from deployment.gateway.dialects.openai_chat import tool_calls_out
from deployment.gateway.encoder import Reply, Times, unique_id
from deployment.gateway.errors_out import OPENAI, error_body
from deployment.gateway.inference import Inference
from deployment.ollama_client import Delta, Done, Generation


class Part(OpenRequest):
    """A piece of a message; only text is taken."""

    type: Literal["input_text", "output_text", "text"]
    text: str


class InputItem(OpenRequest):
    """A message, a function call of an earlier answer, or a function's output."""

    type: Literal["message", "function_call", "function_call_output"] = "message"
    role: Literal["system", "developer", "user", "assistant"] = "user"
    content: str | list[Part] = ""
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | None = None

    def in_ollama(self) -> dict[str, Any]:
        """As a message of `/api/chat`."""
        if self.type == "function_call":
            try:
                arguments = orjson.loads(self.arguments or "{}")
            except orjson.JSONDecodeError:
                raise InvalidRequest("input.arguments: must be JSON in a string.") from None
            call = {"id": self.call_id, "function": {"name": self.name or "", "arguments": arguments}}
            return {"role": "assistant", "content": "", "tool_calls": [call]}
        if self.type == "function_call_output":
            return {"role": "tool", "content": self.output or "", "tool_call_id": self.call_id}
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class TextFormat(OpenRequest):
    """What form the answer takes."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    json_schema: Schema | None = Field(None, alias="schema")


class TextOptions(OpenRequest):
    """How the text is written."""

    format: TextFormat = TextFormat()


class ResponsesRequest(OpenRequest):
    """Body of `POST /v1/responses`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "ramsey-model", "input": "What is R(3,3)?"}]})
    model: ModelName
    input: (
        Annotated[str, Field(min_length=1)] | Annotated[list[InputItem], Field(min_length=1, max_length=MAX_MESSAGES)]
    )
    instructions: str | None = None
    max_output_tokens: Tokens | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    text: TextOptions = TextOptions()
    tools: list[dict[str, Any]] | None = None
    stream: bool | None = None
    user: Annotated[str, Field(max_length=256)] | None = Field(
        None, description="Whose request it is; where conversations are kept, it stands under this name."
    )
    previous_response_id: str | None = None
    background: bool | None = None

    def inference(self) -> Inference:
        """As a call of `/api/chat`."""
        if self.previous_response_id:
            raise InvalidRequest("previous_response_id: responses are not stored; send the whole conversation.")
        if self.background:
            raise InvalidRequest("background: is not offered.")
        items = [InputItem(content=self.input)] if isinstance(self.input, str) else self.input
        messages = [item.in_ollama() for item in items]
        if self.instructions:
            messages.insert(0, {"role": "system", "content": self.instructions})
        form = self.text.format
        if form.type == "json_schema" and form.json_schema is None:
            raise InvalidRequest("text.format.schema: is required.")
        options = {
            "num_predict": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
        }
        body: dict[str, Any] = {
            "messages": messages,
            "tools": [_tool(tool) for tool in self.tools] if self.tools else None,
            "format": {"text": None, "json_object": "json", "json_schema": form.json_schema}[form.type],
            "truncate": False,
            "options": options,
        }
        return Inference("/api/chat", self.model, body, bool(self.stream), self.user, "max_output_tokens")


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    """A function of the responses API is flat; Ollama's stands in `function`. Hosted tools would leave the house."""
    if tool.get("type") != "function":
        raise InvalidRequest("tools: only functions are offered.")
    inner = {key: tool[key] for key in ("name", "description", "parameters") if tool.get(key) is not None}
    return {"type": "function", "function": inner}


class ResponsesEncoder:
    """Writes a response, or its events. Keeps the text, since the closing events repeat it."""

    media_type = "text/event-stream"

    def __init__(self, reply: Reply, request: ResponsesRequest) -> None:
        self._reply = reply
        self._sequence = 0
        self._texts: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._item_id = "msg_" + unique_id()
        self._frame: dict[str, Any] = {
            "id": "resp_" + unique_id(),
            "object": "response",
            "created_at": reply.created,
            "status": "in_progress",
            "model": reply.model,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "tools": request.tools or [],
            "tool_choice": "auto",
            "parallel_tool_calls": True,
            "error": None,
            "incomplete_details": None,
            "output": [],
            "usage": None,
            "metadata": {},
        }

    def begin(self) -> bytes:
        """The response and its message are announced."""
        item = {
            "id": self._item_id,
            "type": "message",
            "status": "in_progress",
            "role": "assistant",
            "content": [],
        }
        return (
            self._event("response.created", response=self._frame)
            + self._event("response.in_progress", response=self._frame)
            + self._event("response.output_item.added", output_index=0, item=item)
            + self._event("response.content_part.added", **self._place(), part=_text_part(""))
        )

    def delta(self, delta: Delta) -> bytes:
        """The new text."""
        self._calls += delta.tool_calls or ()
        if not delta.text:
            return b""
        self._texts.append(delta.text)
        return self._event("response.output_text.delta", **self._place(), delta=delta.text, logprobs=[])

    def end(self, done: Done, times: Times) -> bytes:
        """Message, function calls and response are closed."""
        text = "".join(self._texts)
        output = self._output(text, self._calls)
        closing = (
            self._event("response.output_text.done", **self._place(), text=text, logprobs=[])
            + self._event("response.content_part.done", **self._place(), part=_text_part(text))
            + self._event("response.output_item.done", output_index=0, item=output[0])
        )
        for index, item in enumerate(output[1:], start=1):
            arguments = {"item_id": item["id"], "output_index": index, "arguments": item["arguments"]}
            started = item | {"status": "in_progress", "arguments": ""}
            closing += self._event("response.output_item.added", output_index=index, item=started)
            closing += self._event("response.function_call_arguments.done", **arguments, name=item["name"])
            closing += self._event("response.output_item.done", output_index=index, item=item)
        response = self._response(output, done)
        return closing + self._event(f"response.{response['status']}", response=response)

    def error(self, error: RamseyError) -> bytes:
        """The response failed."""
        told = error_body(error, OPENAI, self._reply.request_id)["error"]
        failed = {"status": "failed", "error": {"code": "server_error", "message": told["message"]}}
        return self._event("response.failed", response=self._frame | failed)

    def whole(self, whole: Generation, times: Times) -> bytes:
        """The response."""
        return orjson.dumps(self._response(self._output(whole.text, whole.tool_calls), whole.done))

    def _output(self, text: str, calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
        message = {
            "id": self._item_id,
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [_text_part(text)],
        }
        functions = [
            {
                "id": "fc_" + unique_id(),
                "type": "function_call",
                "status": "completed",
                "call_id": call["id"],
                **call["function"],
            }
            for call in tool_calls_out(calls)
        ]
        return [message, *functions]

    def _response(self, output: list[dict[str, Any]], done: Done) -> dict[str, Any]:
        cut = done.reason == "length"
        return self._frame | {
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": output,
            "usage": {
                "input_tokens": done.prompt_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": done.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": done.prompt_tokens + done.completion_tokens,
            },
        }

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item_id, "output_index": 0, "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> bytes:
        data = {"type": kind, "sequence_number": self._sequence} | fields
        self._sequence += 1
        return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

"""Requests for llama.cpp, from Ollama's: pure."""

from collections.abc import Sequence
from typing import Any

import orjson

from deployment.embedded.bodies import Chat, Generate, Inference, Message
from deployment.embedded.models import Model
from deployment.errors import InvalidRequest, RamseyError
from deployment.json_schemas import check_schema

_ROLES = {"system", "user", "assistant", "tool"}
_MOST_LOGPROBS = 20


class InvalidFormat(RamseyError):
    """`format` is neither "json" nor a schema. Ollama answers 500, and clients know the text."""

    code = "invalid_format"
    status = 500


def check(body: Inference, model: Model) -> None:
    """What Ollama refuses before it loads anything. Raises InvalidRequest."""
    if not 0 <= body.top_logprobs <= _MOST_LOGPROBS:
        raise InvalidRequest("top_logprobs must be between 0 and 20")
    check_schema(body.format)
    if body.think and "thinking" not in model.capabilities:
        raise InvalidRequest(f'"{body.model}" does not support thinking')
    if isinstance(body, Chat):
        for tool in body.tools:
            check_schema(_parameters(tool))
        if body.tools and "tools" not in model.capabilities:
            raise InvalidRequest(f"{model.manifest.name} does not support tools")
        if any(message.images for message in body.messages):
            raise InvalidRequest(f'"{body.model}" does not support vision')
        for message in body.messages:
            if message.role.lower() not in _ROLES:
                raise InvalidRequest(f"invalid role: {message.role}")
    if isinstance(body, Generate):
        _check_generate(body, model)


def _parameters(tool: dict[str, Any]) -> Any:
    function = tool.get("function")
    return function.get("parameters") if isinstance(function, dict) else None


def _check_generate(body: Generate, model: Model) -> None:
    if body.raw and (body.system or body.template or body.context):
        raise InvalidRequest("raw mode does not support template, system, or context")
    if body.suffix:
        raise InvalidRequest(f'"{body.model}" does not support insert')
    if body.images:
        raise InvalidRequest(f'"{body.model}" does not support vision')
    if body.template and body.template != model.template:
        raise InvalidRequest("template is not supported here: the chat template inside the GGUF is used")
    if body.context:
        raise InvalidRequest("context is not supported here: send the conversation to /api/chat")


def chat_messages(body: Chat, model: Model) -> list[dict[str, Any]]:
    """The conversation: the model's own MESSAGEs, then the caller's, under a system message."""
    messages = [Message.model_validate(dict(each)) for each in model.messages] + list(body.messages)
    converted = [_message(each) for each in messages]
    if model.system and (not converted or converted[0]["role"] != "system"):
        converted.insert(0, {"role": "system", "content": model.system})
    return converted


def generate_messages(body: Generate, model: Model) -> list[dict[str, Any]]:
    """A prompt as a conversation of one turn, under the caller's system prompt or the model's own."""
    system = model.system if body.system is None else body.system
    opening = [{"role": "system", "content": system}] if system else []
    own = [_message(Message.model_validate(dict(each))) for each in model.messages]
    return [*opening, *own, {"role": "user", "content": body.prompt}]


def chat_request(
    messages: Sequence[dict[str, Any]], body: Inference, sampling: dict[str, Any], model: Model
) -> dict[str, Any]:
    """The body for `/v1/chat/completions`."""
    request = {key: value for key, value in sampling.items() if key != "n_predict"}
    request |= {
        "messages": list(messages),
        "max_tokens": sampling["n_predict"],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if isinstance(body, Chat) and body.tools:
        request["tools"] = body.tools
    schema = _schema(body.format)
    if schema == {}:
        request["response_format"] = {"type": "json_object"}
    elif schema is not None:
        request["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    if body.logprobs:
        request |= {"logprobs": True, "top_logprobs": max(1, body.top_logprobs)}
    if "thinking" in model.capabilities and body.think is not None:
        request["chat_template_kwargs"] = {"enable_thinking": bool(body.think)}
    return request


def raw_request(body: Generate, sampling: dict[str, Any]) -> dict[str, Any]:
    """The body for `/completion`: the prompt as it stands."""
    request = {**sampling, "prompt": body.prompt, "stream": True}
    schema = _schema(body.format)
    if schema is not None:
        request["json_schema"] = schema
    if body.logprobs:
        request["n_probs"] = max(1, body.top_logprobs)
    return request


def droppable(messages: list[dict[str, Any]]) -> list[int]:
    """Which of a conversation's messages may go, the oldest first: neither system messages nor the last."""
    return [index for index, message in enumerate(messages[:-1]) if message["role"] != "system"]


def without(messages: list[dict[str, Any]], dropped: list[int]) -> list[dict[str, Any]]:
    """The conversation without those."""
    gone = set(dropped)
    return [message for index, message in enumerate(messages) if index not in gone]


def _schema(wanted: Any) -> dict[str, Any] | None:
    """None for free text, {} for any JSON, else the schema."""
    if wanted is None or wanted == "":
        return None
    if wanted == "json":
        return {}
    if isinstance(wanted, dict) and wanted:
        return wanted
    raise InvalidFormat(
        f'invalid format: {orjson.dumps(wanted).decode()}; expected "json" or a valid JSON Schema object'
    )


def _message(message: Message) -> dict[str, Any]:
    converted: dict[str, Any] = {"role": message.role.lower(), "content": message.content}
    if message.tool_calls:
        converted["tool_calls"] = [_call(index, call) for index, call in enumerate(message.tool_calls)]
    if message.tool_call_id:
        converted["tool_call_id"] = message.tool_call_id
    if message.tool_name:
        converted["name"] = message.tool_name
    if message.thinking:
        converted["reasoning_content"] = message.thinking
    return converted


def _call(index: int, call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequest("a tool call needs a function with a name")
    return {
        "id": call.get("id") or f"call_{index:08d}",
        "type": "function",
        "function": {
            "name": function["name"],
            "arguments": orjson.dumps(function.get("arguments") or {}).decode(),
        },
    }

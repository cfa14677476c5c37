"""The engine that every contender stands before: constant answers, as fast as Python writes them.

Speaks just enough of Ollama's API and of OpenAI's. A stream has as many tokens as the request allows, one
every `--interval` seconds on a fixed beat. Every token holds MARK, by which the load generator counts them.
"""

import argparse
import asyncio
import re

import orjson
import uvloop

from bench.wire import ServerConnection, whole

MARK = b"Zq"
RELEASE = "ramsey-model:v1.1"
DIGEST = "5" * 64
_TEXT = "Zq is a short answer, as a small model would give it."
_NOW = "2026-11-24T00:00:00.000000001Z"
_LIMIT = re.compile(rb'"(?:max_tokens|max_completion_tokens|num_predict)":\s*(\d+)')
_STREAM = re.compile(rb'"stream":\s*(true|false)')
_USAGE = {"prompt_tokens": 12, "completion_tokens": 14, "total_tokens": 26}
_COUNTS = {
    "total_duration": 2_000_000,
    "load_duration": 1000,
    "prompt_eval_count": 12,
    "prompt_eval_duration": 500_000,
    "eval_count": 14,
    "eval_duration": 1_000_000,
}


def ollama(said: dict[str, object], done: bool) -> bytes:
    """A line of Ollama's API."""
    end = {"done_reason": "stop", **_COUNTS} if done else {}
    return orjson.dumps({"model": RELEASE, "created_at": _NOW, **said, "done": done, **end}) + b"\n"


def message(text: str) -> dict[str, object]:
    return {"message": {"role": "assistant", "content": text}}


def openai(text: str, finish: str | None = None) -> bytes:
    """An event of OpenAI's stream."""
    delta = {"role": "assistant", "content": text} if text else {}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1795478400, "model": "bench"}
    return b"data: " + orjson.dumps({**chunk, "choices": [choice]}) + b"\n\n"


_CHOICE = {"index": 0, "message": {"role": "assistant", "content": _TEXT}, "finish_reason": "stop"}
_COMPLETION = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1795478400, "model": "bench"}
WHOLE = {
    "/api/chat": whole(ollama(message(_TEXT), True)),
    "/api/generate": whole(ollama({"response": _TEXT}, True)),
    "/v1/chat/completions": whole(orjson.dumps({**_COMPLETION, "choices": [_CHOICE], "usage": _USAGE})),
}
STREAMS = {  # media type, a token, the end
    "/api/chat": ("application/x-ndjson", ollama(message("Zq "), False), ollama(message(""), True)),
    "/api/generate": ("application/x-ndjson", ollama({"response": "Zq "}, False), ollama({"response": ""}, True)),
    "/v1/chat/completions": ("text/event-stream", openai("Zq "), openai("", "stop") + b"data: [DONE]\n\n"),
}
_MODEL = {"name": RELEASE, "model": RELEASE, "digest": DIGEST, "size": 3_700_000, "modified_at": _NOW}
_DETAILS = {"format": "gguf", "family": "llama", "parameter_size": "3.7M", "quantization_level": "Q8_0"}
ABOUT = {  # what a gateway asks to learn whether the node is well
    "/api/version": {"version": "0.33.0"},
    "/api/tags": {"models": [_MODEL | {"details": _DETAILS}]},
    "/api/ps": {"models": [_MODEL | {"expires_at": "2318-01-01T00:00:00Z", "size_vram": 0, "context_length": 4096}]},
    "/api/show": {
        "details": _DETAILS,
        "model_info": {"llama.context_length": 4096},
        "capabilities": ["completion"],
        "modelfile": "",
        "parameters": "",
        "template": "{{ .Prompt }}",
    },
    "/v1/models": {"object": "list", "data": [{"id": "bench", "object": "model", "created": 1, "owned_by": "bench"}]},
}


def wants_stream(path: str, body: bytes) -> bool:
    """Ollama streams unless told not to, OpenAI only when told to."""
    found = _STREAM.search(body)
    return path.startswith("/api/") if found is None else found[1] == b"true"


def tokens_wanted(body: bytes, default: int = 14) -> int:
    """How many tokens the request allows."""
    found = _LIMIT.search(body)
    return int(found[1]) if found else default


class Stream:
    """Tokens on a fixed beat: a late one does not make the next late."""

    def __init__(self, connection: ServerConnection, path: str, tokens: int, interval: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection, self._left, self._interval = connection, tokens, interval
        kind, self._token, self._end = STREAMS[path]
        connection.on_lost = self._lost
        connection.begin(kind)
        self._next = self._loop.time()
        self._beat()

    def _beat(self) -> None:
        if self._left <= 0:
            self._connection.on_lost = None
            self._connection.end(self._end)
            return
        self._connection.chunk(self._token)
        self._left -= 1
        self._next += self._interval
        self._handle = self._loop.call_at(self._next, self._beat)

    def _lost(self) -> None:
        self._handle.cancel()


async def serve(port: int, interval: float) -> None:
    about = {path: whole(orjson.dumps(value)) for path, value in ABOUT.items()}

    def handle(connection: ServerConnection, path: str, body: bytes) -> None:
        if path in WHOLE and wants_stream(path, body):
            Stream(connection, path, tokens_wanted(body), interval)
        elif (answer := WHOLE.get(path) or about.get(path)) is not None:
            connection.transport.write(answer)
        else:
            connection.reply(b'{"error":"not found"}', "404 Not Found")

    server = await asyncio.get_running_loop().create_server(
        lambda: ServerConnection(handle), "127.0.0.1", port, backlog=2048
    )
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--interval", type=float, default=0.01)
    options = parser.parse_args()
    uvloop.run(serve(options.port, options.interval))

"""OpenAI's text completions, embeddings and list of models."""

import base64
import struct
from datetime import datetime
from typing import Annotated, Any, Literal

import orjson
from pydantic import ConfigDict, Field

from deployment.errors import RamseyError
from deployment.gateway.dialects.fields import EmbeddingInput, ModelName, OpenRequest
from deployment.gateway.dialects.openai_chat import DONE, Sampling, sse
from deployment.gateway.encoder import Reply, Times, finish_reason, unique_id, usage
from deployment.gateway.errors_out import OPENAI, error_body
from deployment.gateway.inference import Inference
from deployment.ollama_client import Delta, Done, Generation


class CompletionRequest(Sampling):
    """Body of `POST /v1/completions`. The prompt goes through the model's template, as in Ollama."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "ramsey-model", "prompt": "What is R(3,3)?"}]})
    prompt: Annotated[str, Field(min_length=1)] | Annotated[list[str], Field(min_length=1, max_length=1)]
    suffix: str | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None

    def inference(self) -> Inference:
        """As a call of `/api/generate`."""
        body: dict[str, Any] = {
            "prompt": self.prompt if isinstance(self.prompt, str) else self.prompt[0],
            "suffix": self.suffix,
            "logprobs": None if self.logprobs is None else True,
            "top_logprobs": self.logprobs,
            "truncate": False,
            "options": self.options(),
        }
        return Inference("/api/generate", self.model, body, bool(self.stream), self.user)


class CompletionEncoder:
    """Writes text completions and their chunks."""

    media_type = "text/event-stream"

    def __init__(self, reply: Reply, *, include_usage: bool) -> None:
        self._reply, self._include_usage = reply, include_usage
        self._offset = 0
        self._frame: dict[str, Any] = {
            "id": "cmpl-" + unique_id(),
            "object": "text_completion",
            "created": reply.created,
            "model": reply.model,
            "system_fingerprint": reply.release,
        }

    def begin(self) -> bytes:
        """Nothing comes first."""
        return b""

    def delta(self, delta: Delta) -> bytes:
        """A chunk with the new text."""
        return sse(self._frame | {"choices": [self._choice(delta.text, None, delta.logprobs)]})

    def end(self, done: Done, times: Times) -> bytes:
        """The finish reason, the usage where it was asked for, and [DONE]."""
        last = sse(self._frame | {"choices": [self._choice("", finish_reason(done, False), None)]})
        if self._include_usage:
            last += sse(self._frame | {"choices": [], "usage": usage(done)})
        return last + DONE

    def error(self, error: RamseyError) -> bytes:
        """An event with `error`; no [DONE] follows."""
        return sse(error_body(error, OPENAI, self._reply.request_id))

    def whole(self, whole: Generation, times: Times) -> bytes:
        """The text completion."""
        choice = self._choice(whole.text, finish_reason(whole.done, False), whole.logprobs)
        return orjson.dumps(self._frame | {"choices": [choice], "usage": usage(whole.done)})

    def _choice(self, text: str, finish: str | None, logprobs: list[dict[str, Any]] | None) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        if logprobs:
            choice["logprobs"] = self._old_logprobs(logprobs)
        return choice

    def _old_logprobs(self, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
        """The form that text completions have: parallel lists."""
        offsets = []
        for entry in logprobs:
            offsets.append(self._offset)
            self._offset += len(entry["token"])
        return {
            "tokens": [entry["token"] for entry in logprobs],
            "token_logprobs": [entry["logprob"] for entry in logprobs],
            "top_logprobs": [
                {top["token"]: top["logprob"] for top in entry.get("top_logprobs") or ()} for entry in logprobs
            ],
            "text_offset": offsets,
        }


class EmbeddingRequest(OpenRequest):
    """Body of `POST /v1/embeddings`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "ramsey-model", "input": "Ramsey theory"}]})
    model: ModelName
    input: EmbeddingInput
    dimensions: Annotated[int, Field(ge=1, le=65_536)] | None = None
    encoding_format: Literal["float", "base64"] = "float"


def embeddings_body(result: dict[str, Any], reply: Reply, encoding: str) -> bytes:
    """The list of embeddings; base64 holds little-endian 32-bit floats."""
    tokens = result.get("prompt_eval_count", 0)
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _packed(vector) if encoding == "base64" else vector,
        }
        for index, vector in enumerate(result.get("embeddings", ()))
    ]
    totals = {"prompt_tokens": tokens, "total_tokens": tokens}
    return orjson.dumps({"object": "list", "data": data, "model": reply.model, "usage": totals})


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def model_entry(name: str, modified_at: str) -> dict[str, Any]:
    """One model of `GET /v1/models`; `modified_at` is when its release was made, as nodes tell it."""
    try:
        created = int(datetime.fromisoformat(modified_at).timestamp())
    except ValueError:
        created = 0
    return {"id": name, "object": "model", "created": created, "owned_by": "ramsey"}

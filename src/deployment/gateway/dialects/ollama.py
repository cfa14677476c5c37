"""Ollama's API for clients: what Ramsey does not know passes through; what would touch the nodes does not."""

import re
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from deployment.errors import Forbidden, InvalidRequest, RamseyError
from deployment.gateway.dialects.fields import (
    MAX_MESSAGES,
    MAX_STOPS,
    Format,
    Image,
    ModelName,
    TopLogprobs,
    fold_seed,
    refuse_misspelt,
)
from deployment.gateway.encoder import Reply, Times
from deployment.gateway.errors_out import OLLAMA, error_body
from deployment.gateway.inference import Inference
from deployment.ollama_client import Delta, Done, Generation

_FIELD = re.compile(r"[a-z0-9_]+")
_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9 _.-]{0,31}")
_ANSWER_FIELD = "options.num_predict"
_MANAGED = "This is done by Ramsey, not through this API: a release fixes {what}. Deploy another release instead."


class PassThrough(BaseModel):
    """Unknown fields are kept and handed to the engine, as Ollama's own server would take them."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    @model_validator(mode="after")
    def _spelt_as_they_are(self) -> Self:
        """Ollama reads names of fields without regard to case: `Raw` would pass here, and be `raw` to a node."""
        for name in self.model_extra or ():
            if not _FIELD.fullmatch(name):
                raise ValueError(f"there is no field {name[:40]!r}; they are written in a-z, 0-9 and _")
        return self


class Options(PassThrough):
    """The options that have a type; any other passes. A wrong type is a 400 here, where Ollama answers 500."""

    num_predict: int | None = None
    num_keep: int | None = None
    seed: int | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    temperature: float | None = None
    repeat_last_n: int | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: Annotated[list[Annotated[str, Field(max_length=256)]], Field(max_length=MAX_STOPS)] | None = None

    def body(self) -> dict[str, Any]:
        """As given, without what is null."""
        options = self.model_dump(exclude_none=True)
        if self.seed is not None and self.seed >= 0:
            options["seed"] = fold_seed(self.seed)
        return options


class OllamaRequest(PassThrough):
    """What `/api/generate` and `/api/chat` have in common."""

    model: ModelName
    stream: bool | None = None
    format: Format | Literal[""] | None = None
    options: Options | None = None
    keep_alive: float | str | None = None
    think: bool | Literal["low", "medium", "high", "max"] | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None

    @property
    def streams(self) -> bool:
        """Ollama streams unless told not to."""
        return self.stream is not False

    def passed_on(self) -> dict[str, Any]:
        """The body for the engine, unknown fields included."""
        body = self.model_dump(exclude_none=True, exclude={"model", "stream", "options"})
        if self.format == "":
            body.pop("format", None)
        body["options"] = self.options.body() if self.options else {}
        return body

    def refuse_unload(self) -> None:
        """`keep_alive: 0` without a prompt unloads the model for everybody."""
        if self.keep_alive in (0, "0", "0s"):
            raise Forbidden("Unloading a model is not offered to callers.", hint="The nodes keep releases warm.")


class OllamaGenerate(OllamaRequest):
    """Body of `POST /api/generate`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "ramsey-model", "prompt": "What is R(3,3)?", "stream": False}]}
    )
    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    raw: bool | None = None
    images: list[Image] | None = None

    def inference(self) -> Inference:
        """As it came. Refuses what would bypass the release's template."""
        if self.template or self.raw:
            raise InvalidRequest(_MANAGED.format(what="the template (`template` and `raw` are refused)"))
        if not self.prompt and not self.suffix:
            refuse_misspelt(self, "prompt")
            self.refuse_unload()
        body = self.passed_on()
        body.pop("raw", None)
        stream = self.streams and bool(self.prompt or self.suffix)
        return Inference("/api/generate", self.model, body, stream, answer_field=_ANSWER_FIELD)


def _role(role: str) -> str:
    """Any short word: templates write it as it is, so that it must not begin a turn."""
    if not _ROLE.fullmatch(role):
        raise ValueError("a role is one word, for instance user, of at most 32 characters")
    return role


class OllamaMessage(PassThrough):
    """One turn."""

    role: Annotated[str, AfterValidator(_role)]
    content: str | None = ""
    images: list[Image] | None = None


class OllamaChat(OllamaRequest):
    """Body of `POST /api/chat`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "ramsey-model", "messages": [{"role": "user", "content": "What is R(4,4)?"}]}]
        }
    )
    messages: Annotated[list[OllamaMessage], Field(max_length=MAX_MESSAGES)] = []
    tools: list[dict[str, Any]] | None = None

    def inference(self) -> Inference:
        """As it came."""
        if not self.messages:
            refuse_misspelt(self, "messages")
            self.refuse_unload()
        stream = self.streams and bool(self.messages)
        return Inference("/api/chat", self.model, self.passed_on(), stream, answer_field=_ANSWER_FIELD)


class OllamaEmbed(PassThrough):
    """Body of `POST /api/embed`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "ramsey-model", "input": ["Ramsey theory"]}]})
    model: ModelName
    input: str | Annotated[list[str], Field(max_length=2048)]
    truncate: bool | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None


class OllamaEmbeddings(PassThrough):
    """Body of `POST /api/embeddings`, the old form."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "ramsey-model", "prompt": "Ramsey theory"}]})
    model: ModelName
    prompt: str


class OllamaShow(PassThrough):
    """Body of `POST /api/show`; `name` is the older word for `model`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "ramsey-model"}]})
    model: ModelName | None = None
    name: ModelName | None = None
    verbose: bool | None = None


class OllamaEncoder:
    """Writes the engine's own objects with the caller's name for the model: one JSON object a line."""

    media_type = "application/x-ndjson"

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    def begin(self) -> bytes:
        """Nothing comes first."""
        return b""

    def delta(self, delta: Delta) -> bytes:
        """One line."""
        return self._line(delta.raw)

    def end(self, done: Done, times: Times) -> bytes:
        """The line with `done: true`."""
        return self._line(done.raw)

    def error(self, error: RamseyError) -> bytes:
        """A line with `error`, as Ollama tells what went wrong after it began."""
        return orjson.dumps(error_body(error, OLLAMA, self._reply.request_id)) + b"\n"

    def whole(self, whole: Generation, times: Times) -> bytes:
        """The engine's last object, with the text that came before it."""
        raw = dict(whole.done.raw)
        said: dict[str, Any] = {"thinking": whole.thinking} if whole.thinking else {}
        if whole.tool_calls:
            said["tool_calls"] = whole.tool_calls
        if "message" in raw:
            raw["message"] = {"role": "assistant", "content": whole.text} | said
        else:
            raw |= {"response": whole.text} | said
        if whole.logprobs:
            raw["logprobs"] = whole.logprobs
        return self._line(raw)

    def _line(self, raw: dict[str, Any]) -> bytes:
        raw["model"] = self._reply.model
        return orjson.dumps(raw, option=orjson.OPT_APPEND_NEWLINE)

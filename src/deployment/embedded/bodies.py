"""The bodies of requests. Unknown fields are ignored and null means absent, as for Ollama."""

from typing import Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deployment.errors import InvalidRequest


class Body(BaseModel):
    """Any request body."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class Inference(Body):
    """What generate and chat share."""

    model: str = ""
    stream: bool = True
    format: Any = None
    keep_alive: Any = None
    options: dict[str, Any] = {}
    think: bool | Literal["low", "medium", "high", "max"] | None = None
    truncate: bool = True
    shift: bool = True
    logprobs: bool = False
    top_logprobs: int = 0


class Generate(Inference):
    """`/api/generate`."""

    prompt: str = ""
    suffix: str = ""
    system: str | None = None
    template: str = ""
    context: list[int] = []
    raw: bool = False
    images: list[str] = []


class Message(Body):
    """One turn of a conversation."""

    role: str = ""
    content: str = ""
    thinking: str = ""
    images: list[str] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_name: str = ""
    tool_call_id: str = ""


class Chat(Inference):
    """`/api/chat`."""

    messages: list[Message] = []
    tools: list[dict[str, Any]] = []


class Embed(Body):
    """`/api/embed`."""

    model: str = ""
    input: Any = None
    truncate: bool = True
    dimensions: int = 0
    options: dict[str, Any] = {}
    keep_alive: Any = None


class Embeddings(Body):
    """`/api/embeddings`, the older one."""

    model: str = ""
    prompt: str = ""
    options: dict[str, Any] = {}
    keep_alive: Any = None


class Named(Body):
    """A body that names a model, as `model` or, formerly, `name`."""

    model: str = ""
    name: str = ""

    @property
    def target(self) -> str:
        """The name, whichever field holds it."""
        return self.model or self.name


class Show(Named):
    """`/api/show`."""

    verbose: bool = False


class Create(Named):
    """`/api/create`."""

    stream: bool = True
    from_: str = Field("", alias="from")
    files: dict[str, str] = {}
    adapters: dict[str, str] = {}
    template: str = ""
    system: str = ""
    parameters: dict[str, Any] = {}
    license: str | list[str] = []
    messages: list[dict[str, Any]] = []
    quantize: str = ""


class Copy(Body):
    """`/api/copy`."""

    source: str = ""
    destination: str = ""


Kind = TypeVar("Kind", bound=Body)
# What is read must also be written again, inside some more objects: orjson writes 254 levels.
_MOST_LEVELS = 200


def read_body(kind: type[Kind], content: bytes) -> Kind:
    """Read a JSON body. Raises InvalidRequest."""
    if not content.strip():
        raise InvalidRequest("missing request body")
    try:
        data = orjson.loads(content)
    except ValueError as error:
        raise InvalidRequest(f"invalid JSON: {error}") from None
    if not isinstance(data, dict):
        raise InvalidRequest("json: the body must be an object")
    if _deeper_than(_MOST_LEVELS, data):
        raise InvalidRequest(f"json: the body is nested more than {_MOST_LEVELS} levels deep")
    try:
        return kind.model_validate(_without_nulls(data))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidRequest(f"json: cannot read field {field}: {first['msg']}") from None


def _deeper_than(levels: int, data: Any) -> bool:
    """Whether objects and lists stand in one another deeper than that. Level by level: no recursion to run out of."""
    row: list[Any] = [data]
    for _ in range(levels):
        inside: list[Any] = []
        for each in row:
            inside.extend(each.values() if isinstance(each, dict) else each)
        row = [each for each in inside if isinstance(each, (dict, list))]
        if not row:
            return False
    return True


def _without_nulls(data: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in data.items() if value is not None}
    if isinstance(messages := kept.get("messages"), list):
        kept["messages"] = [
            {key: value for key, value in each.items() if value is not None} if isinstance(each, dict) else each
            for each in messages
        ]
    return kept

"""From a dialect's request to a call on the pool: names resolved, bounds kept, load-time options pinned."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import orjson

from deployment.access import Sizes
from deployment.engines import Call
from deployment.errors import InvalidRequest, ModelNotFound, PayloadTooLarge
from deployment.gateway.neutral import neutral_body
from deployment.json_schemas import check_schema
from deployment.releases import Choice, Split, Traits
from deployment.settings import ModelSettings

# A change of one of these makes Ollama reload the model under everybody: a release fixes them.
LOAD_OPTIONS = frozenset({"num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict"})
_PINNED_FIELDS = ("keep_alive", "shift")
_TEMPLATE_TOKENS = 16  # around each message
_NAME = re.compile(r"^[a-z0-9_][a-z0-9_.-]{0,79}(:[a-z0-9_][a-z0-9_.-]{0,79})?$")


@dataclass(slots=True)
class Inference:
    """What a dialect understood of a request, in the words of Ollama's own API."""

    path: Literal["/api/chat", "/api/generate"]
    model: str | None
    body: dict[str, Any]
    stream: bool
    subject: str | None = None
    """Whose request it is, as OpenAI's `user` says."""
    answer_field: str = "max_tokens"
    """Where the dialect says how long an answer may be."""
    default_length: bool = False
    """Whether the length there is the dialect's default, not the caller's wish."""

    @property
    def wishes_length(self) -> bool:
        """Whether the caller says how long the answer may be."""
        wish = (self.body.get("options") or {}).get("num_predict")
        return not self.default_length and wish is not None and wish >= 0

    def prompt_chars(self) -> int:
        """Characters that the model would read: prompt, system and every message."""
        body = self.body
        total = len(body.get("prompt") or "") + len(body.get("system") or "") + len(body.get("suffix") or "")
        return total + sum(len(message.get("content") or "") for message in body.get("messages") or ())

    def prompt(self) -> Any:
        """What the caller asked, for a log that was told to keep it."""
        return self.body.get("prompt") or self.body.get("messages")


@dataclass(frozen=True, slots=True)
class Asked:
    """A name as a caller wrote it, understood."""

    name: str
    model: str
    """The model without a tag, which rights, limits and traffic speak of."""
    release: str | None
    """The release that was asked for by its tag; None where the traffic decides."""


class Served(NamedTuple):
    """A name that a caller used, and the release that answers for it."""

    model: str
    logical: str
    """The model without a tag."""
    choice: Choice
    split: Split

    @property
    def release(self) -> str:
        """What answers."""
        return self.choice.release


class Bounds(NamedTuple):
    """How large a request may be, and what is fixed for every one."""

    max_prompt_chars: int
    max_tokens: int
    keep_alive: str | int
    usual_answer: int  # the longest where no wish is sent
    context: int | None = None  # of the release, where it is known
    preamble: int = 0  # bytes that the release reads before every prompt
    output_is_limited: bool = False  # the caller's own limit: it holds also where no wish is sent

    @classmethod
    def of(cls, model: ModelSettings, sizes: Sizes, traits: Traits) -> "Bounds":
        """The server's own bounds, narrowed to the caller's and the release's."""
        most = model.max_tokens
        longest = min(most, sizes.max_output_tokens or most, traits.context or most)
        return cls(
            min(model.max_prompt_chars, sizes.max_prompt_chars or model.max_prompt_chars),
            longest,
            model.keep_alive,
            min(longest, traits.answer or longest),
            traits.context,
            traits.preamble,
            sizes.max_output_tokens is not None,
        )


class Most(NamedTuple):
    """The most tokens that a request may use: what limits are charged before the work."""

    prompt: int
    answer: int


def understand(asked: str | None, models: Collection[str], default: str) -> Asked:
    """What a name means, of the models that have traffic.

    Raises ModelNotFound, or InvalidRequest for a name that Ollama would send to its cloud.
    """
    name = (asked or default).strip()
    folded = name.lower().removeprefix("registry.ollama.ai/").removeprefix("library/")
    model, _, tag = folded.partition(":")
    if tag == "cloud" or folded.endswith("-cloud"):
        raise InvalidRequest(
            f'The name "{shorten(name)}" would leave this installation for Ollama\'s cloud; it is refused.'
        )
    if not _NAME.match(folded) or model not in models:
        raise not_served(name, models)
    return Asked(name, model, None if tag in ("", "latest") else folded)


def may_ask(release: str, split: Split, present: Collection[str], *, every: bool) -> bool:
    """Whether a release may be asked for by its tag: one with traffic or a pin by anybody, `every` other one that
    nodes hold only by who may see releases, for instance to evaluate it."""
    return release in split.callable or (every and (release in present or release in split.releases))


def not_served(name: str, models: Collection[str]) -> ModelNotFound:
    """No model or release of that name is served to this caller."""
    there = ", ".join(sorted(models)) or "none yet"
    return ModelNotFound(f'The model "{shorten(name)}" is not served here.', hint=f"Models: {there}.")


def _refuse_costly_schemas(body: Mapping[str, Any]) -> None:
    """One schema with thousands of alternatives holds a node for minutes, and the next one after it."""
    if isinstance(body.get("format"), dict):
        check_schema(body["format"])
    for tool in body.get("tools") or ():
        check_schema(tool.get("function", {}).get("parameters") if isinstance(tool.get("function"), dict) else None)


def refuse_unwritable(body: Mapping[str, Any]) -> None:
    """JSON that can be read is not always JSON that can be passed on. Raises InvalidRequest."""
    try:
        orjson.dumps(body)
    except orjson.JSONEncodeError as error:
        raise InvalidRequest(f"The body cannot be passed on: {error}.") from None


def most_tokens(body: Mapping[str, Any], bounds: Bounds, *, wished: bool) -> Most:
    """What a request for an answer may use: a prompt within the context, and the answer's length that was `wished`.

    Without a wish the answer has what the prompt leaves of the context, at least half of it: bytes count for tokens,
    which is too much for nearly every prompt.
    """
    prompt = bounds.preamble + most_read(body)
    answer = int(body["options"].get("num_predict", bounds.usual_answer))
    if bounds.context is None:
        return Most(prompt, answer)
    prompt = min(prompt, bounds.context)
    return Most(prompt, answer if wished else min(answer, max(bounds.context - prompt, bounds.context // 2)))


def most_read(body: Mapping[str, Any]) -> int:
    """The most tokens of what a model reads. A token is at least one byte; each message costs some more for the
    template around it, each text to embed its begin and end."""
    texts = [body.get("prompt") or "", body.get("system") or "", body.get("suffix") or ""]
    messages = body.get("messages") or ()
    texts += [message.get("content") or "" for message in messages]
    asked = body.get("input") or ()
    embedded = [asked] if isinstance(asked, str) else list(asked)
    said = [body.get("tools"), *(message.get(name) for message in messages for name in ("tool_calls", "thinking"))]
    read = sum(len(text.encode("utf-8", "replace")) for text in texts + embedded)
    read += sum(len(orjson.dumps(each)) for each in said if each)
    return read + _TEMPLATE_TOKENS * (len(messages) + 2) + 2 * len(embedded)


def shorten(text: str, limit: int = 80) -> str:
    """A caller's text, fit for an error message."""
    return text if len(text) <= limit else text[:limit] + "…"


def to_call(
    inference: Inference, release: str, bounds: Bounds, markers: re.Pattern[str], *, tenant: str, session: str | None
) -> tuple[Call, list[str]]:
    """Keep the bounds, pin what a release fixes, and break the `markers` of its template in what the caller wrote.

    Returns the call and the names of what was ignored. Raises PayloadTooLarge for an over-long prompt,
    InvalidRequest for control characters.
    """
    if (chars := inference.prompt_chars()) > bounds.max_prompt_chars:
        raise PayloadTooLarge(
            f"The prompt has {chars} characters; at most {bounds.max_prompt_chars} are allowed.",
            hint="Shorten it, or ask an administrator for more.",
        )
    body = neutral_body(inference.body, markers)
    options = dict(body.get("options") or {})
    ignored = [f"options.{name}" for name in options if name in LOAD_OPTIONS]
    ignored += [name for name in _PINNED_FIELDS if body.get(name) is not None]
    options = {name: value for name, value in options.items() if name not in LOAD_OPTIONS and value is not None}
    if bounds.output_is_limited:
        options.setdefault("num_predict", bounds.usual_answer)
    wish = options.get("num_predict")
    if wish is not None and not 0 <= wish <= bounds.max_tokens:
        options["num_predict"] = bounds.max_tokens
    body = {name: value for name, value in body.items() if name not in _PINNED_FIELDS and value is not None}
    body |= {"options": options, "stream": inference.stream, "keep_alive": bounds.keep_alive}
    _refuse_costly_schemas(body)
    refuse_unwritable(body)
    call = Call(path=inference.path, release=release, body=body, tenant=tenant, session=session)
    return call, ignored

"""What a gateway must know of a release to pass requests on to it. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from deployment.gguf import GgufHeader
from deployment.modelfile import Modelfile
from deployment.releases.tokens import control_tokens

_NONSENSE = 2**53
"""No context is so long."""


@dataclass(frozen=True, slots=True)
class Traits:
    """How a release reads and answers. What is None is not known."""

    control_tokens: tuple[str, ...] | None = None
    """The texts that it reads as structure."""
    context: int | None = None
    """Most tokens that prompt and answer can have together."""
    answer: int | None = None
    """Most tokens of an answer where nobody wishes otherwise."""
    preamble: int = 0
    """Bytes of text that it reads before every prompt."""

    @classmethod
    def shown(cls, shown: Mapping[str, Any]) -> Self:
        """As /api/show tells, asked verbosely."""
        parameters = {name: values[-1] for name, values in shown_parameters(shown.get("parameters") or "").items()}
        texts = [shown.get("system"), *(each.get("content") for each in shown.get("messages") or ())]
        return cls._made(shown.get("model_info") or {}, shown.get("template"), parameters, texts)

    @classmethod
    def made_of(cls, header: GgufHeader, modelfile: Modelfile) -> Self:
        """As its weights and its Modelfile say. The header needs its long arrays."""
        texts = [modelfile.system, *(each.content for each in modelfile.messages)]
        return cls._made(header.metadata, modelfile.template, modelfile.parameters, texts)

    @classmethod
    def _made(
        cls, metadata: Mapping[str, Any], template: str | None, parameters: Mapping[str, Any], texts: list[str | None]
    ) -> Self:
        trained = metadata.get(f"{metadata.get('general.architecture')}.context_length")
        contexts = [number for each in (trained, parameters.get("num_ctx")) if (number := _count(each)) is not None]
        return cls(
            control_tokens(metadata, template),
            min(contexts, default=None),
            _count(parameters.get("num_predict")),
            sum(len(text.encode("utf-8", "replace")) for text in texts if text),
        )


def shown_parameters(text: str) -> dict[str, list[float | str]]:
    """The lines `name value` of /api/show: strings in quotes, several of one name on several lines."""
    found: dict[str, list[float | str]] = {}
    for line in text.splitlines():
        key, _, value = line.strip().partition(" ")
        if key:
            found.setdefault(key, []).append(_value(value.strip()))
    return found


def _count(value: object) -> int | None:
    """A number of tokens. Below 1 it means none in particular."""
    return int(value) if isinstance(value, int | float) and 1 <= value < _NONSENSE else None


def _value(text: str) -> float | str:
    if text in {"true", "false"}:
        return float(text == "true")
    try:
        read = json.loads(text)
    except ValueError:
        return text
    return float(read) if isinstance(read, int | float) else str(read)

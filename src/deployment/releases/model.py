"""What a release is, what it is called, and whether two are the same. Pure."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from deployment.errors import ConfigurationError
from deployment.gguf import GgufHeader
from deployment.modelfile import Modelfile
from deployment.releases.traits import Traits, shown_parameters

_TAG = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,79}")
# Ollama sends prompts for such tags to a service of its own, or keeps the word for itself.
_RESERVED = re.compile(r"(.*-)?(cloud|local)")
_BLOB = re.compile(r"^FROM .*sha256[-:]([0-9a-f]{64})", re.MULTILINE)
# An engine that rewrites a GGUF sets these anew.
_REWRITTEN = {"general.file_type", "general.quantization_version", "general.alignment"}
_SIZE_SLACK = 0.05


@dataclass(frozen=True, slots=True)
class Release:
    """One immutable version of a model on a node. `digest` identifies it there, and across nodes.

    `traits` are None where they are not known.
    """

    model: str
    tag: str
    name: str
    digest: str
    traits: Traits | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a release is made from: a Modelfile and the files that it names.

    `header` is None where FROM names a model; `weights` is then that model's digest. Digests are 64 hex digits.
    """

    modelfile: Modelfile
    weights: str
    adapters: tuple[str, ...] = ()
    header: GgufHeader | None = None

    @property
    def digest(self) -> str:
        """Equal for equal recipes, wherever their files lie."""
        parts = asdict(self.modelfile) | {"from_": self.weights, "adapters": self.adapters}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def is_reserved(tag: str) -> bool:
    """Whether Ollama keeps the tag for itself."""
    return _RESERVED.fullmatch(tag.lower()) is not None


def release_tag(recipe: Recipe, wanted: str | None) -> str:
    """The tag: as wanted, else the version that the weights carry, else the beginning of their digest.

    Raises ConfigurationError for a wanted tag that must not be used.
    """
    if wanted is not None:
        if is_reserved(wanted):
            raise ConfigurationError(
                f"model.release is {wanted}, a word that Ollama keeps for itself.", hint="Choose another, such as v1.1."
            )
        return wanted.lower()
    version = (recipe.header.version if recipe.header else None) or ""
    tag = re.sub(r"[^a-z0-9_.-]+", "-", version.lower()).strip("-.")[:80]
    return tag if _TAG.fullmatch(tag) and not is_reserved(tag) else recipe.weights[:12]


def differences(recipe: Recipe, shown: Mapping[str, Any], size: int | None = None) -> list[str]:
    """In what an installed model (`shown` by /api/show, its `size` by /api/tags) differs from the recipe.

    An engine may rewrite weights, so that their digest says nothing: then what they say of themselves counts.
    """
    found = []
    if _weights_differ(recipe, shown, size):
        found.append("weights")
    made = recipe.modelfile
    if made.template is not None and made.template.strip() != str(shown.get("template") or "").strip():
        found.append("template")
    inherits = recipe.header is None  # from another model, what this one leaves out
    if (made.system is not None or not inherits) and (made.system or "") != (shown.get("system") or ""):
        found.append("system")
    ours, theirs = _comparable(made.parameters), shown_parameters(str(shown.get("parameters") or ""))
    added = inherits or made.template is None  # an engine that detects a template adds that template's stops
    if any(theirs.get(key) != value for key, value in ours.items()) or (not added and theirs.keys() - ours.keys()):
        found.append("parameters")
    messages = [(each.get("role"), each.get("content")) for each in shown.get("messages") or ()]
    if (made.messages or not inherits) and list(made.messages) != messages:
        found.append("messages")
    return found


def _weights_differ(recipe: Recipe, shown: Mapping[str, Any], size: int | None) -> bool:
    blob = _BLOB.search(str(shown.get("modelfile") or ""))
    header = recipe.header
    if header is None or (blob and blob[1] == recipe.weights):
        return False
    if size and abs(size - header.size) > _SIZE_SLACK * header.size:
        return True
    told = shown.get("model_info") or {}
    own = {key: header.metadata[key] for key in header.metadata if key.startswith("general.") and key not in _REWRITTEN}
    own["general.parameter_count"] = header.parameter_count
    return any(key in told and told[key] != value for key, value in own.items())


def _comparable(parameters: Mapping[str, Any]) -> dict[str, list[float | str]]:
    lists = {key: value if isinstance(value, list) else [value] for key, value in parameters.items()}
    return {key: [each if isinstance(each, str) else float(each) for each in value] for key, value in lists.items()}

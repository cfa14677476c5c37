"""What is kept of a release, and what makes a wish for one right. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from deployment import modelfile as modelfiles
from deployment.errors import ConfigurationError, InvalidRequest
from deployment.modelfile import Modelfile, Parameter
from deployment.releases.model import Recipe, is_reserved

LOAD_OPTIONS = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread")
"""Parameters that say how a node loads the weights, not how it answers."""

NOTES_LIMIT = 2000
_MODEL = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,79}")
_TAG = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,79}")
_BLOB = "sha256:"


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One release as it is kept. What it is made of never changes; `digest` and what follows is learned later."""

    model: str
    tag: str
    recipe_digest: str
    """Equal for equal weights, template, system and parameters, wherever their files lie."""
    weights_sha256: str
    """64 hex digits: the GGUF as it was given."""
    weights_bytes: int
    adapters: tuple[str, ...]
    """SHA-256 of each LoRA adapter."""
    modelfile_text: str
    """With `sha256:` digests in place of paths."""
    created_at: datetime
    created_by: str
    notes: str = ""
    digest: str | None = None
    """Of the manifest on nodes, which is how they name it; None before it was on one."""
    evaluation: Mapping[str, Any] | None = None
    pruned_at: datetime | None = None
    """When it was last taken off the nodes to save their disks; None while it may be there."""
    deleted_at: datetime | None = None
    """When its weights were given up; its version stays taken."""

    @property
    def name(self) -> str:
        """As nodes are asked for it: `ramsey-model:v1.1`."""
        return f"{self.model}:{self.tag}"

    @property
    def modelfile(self) -> Modelfile:
        """As it is kept: FROM and ADAPTER are `sha256:` digests."""
        return _parsed(self.modelfile_text)

    @property
    def template(self) -> str | None:
        """The template, where the Modelfile has one."""
        return self.modelfile.template

    @property
    def system(self) -> str | None:
        """The system prompt, where the Modelfile has one."""
        return self.modelfile.system

    @property
    def parameters(self) -> dict[str, Parameter]:
        """How it answers: all parameters but the load options."""
        return {key: value for key, value in self.modelfile.parameters.items() if key not in LOAD_OPTIONS}

    @property
    def load_options(self) -> dict[str, Parameter]:
        """How nodes load it."""
        return {key: value for key, value in self.modelfile.parameters.items() if key in LOAD_OPTIONS}

    @property
    def artefacts(self) -> tuple[str, ...]:
        """The SHA-256 of every file that it is made of; the weights first."""
        return (self.weights_sha256, *self.adapters)

    @property
    def told(self) -> str:
        """When and by whom, in words."""
        return f"{self.created_at:%Y-%m-%d %H:%M} UTC by {self.created_by}"


def portable(recipe: Recipe) -> str:
    """A recipe's Modelfile with digests in place of paths. Raises ConfigurationError for what it cannot hold."""
    adapters = tuple(f"{_BLOB}{each}" for each in recipe.adapters)
    return modelfiles.render(replace(recipe.modelfile, from_=f"{_BLOB}{recipe.weights}", adapters=adapters))


def with_files(modelfile: Modelfile, files: Mapping[str, Path]) -> Modelfile:
    """A kept Modelfile with paths in place of digests; `files` by SHA-256."""
    adapters = tuple(str(files[each.removeprefix(_BLOB)]) for each in modelfile.adapters)
    return replace(modelfile, from_=str(files[modelfile.from_.removeprefix(_BLOB)]), adapters=adapters)


def checked_model(model: str) -> str:
    """The model's name. Raises InvalidRequest unless it may be one."""
    if _MODEL.fullmatch(model):
        return model
    raise InvalidRequest(
        f"{_short(model)} cannot be the name of a model.",
        hint="Write 1 to 80 of a-z, 0-9, _, . and -, without a tag.",
        param="model",
    )


def checked_version(version: str) -> str:
    """The tag of a new release. Raises InvalidRequest, naming what is wrong, for one that must not be used."""
    if is_reserved(version):
        raise InvalidRequest(
            f"{version[:80]} is a version that Ollama keeps for itself: it would send prompts elsewhere.",
            hint="Choose another, such as v1.1.",
            param="version",
        )
    if version != version.lower() and _TAG.fullmatch(version.lower()):
        raise InvalidRequest(
            f"The version {_short(version)} has capital letters, which Ollama folds.",
            hint=f"Write {version.lower()}.",
            param="version",
        )
    if not _TAG.fullmatch(version):
        raise InvalidRequest(
            f"{_short(version)} cannot be a version.", hint="Write 1 to 80 of a-z, 0-9, _, . and -.", param="version"
        )
    if version == "latest":
        raise InvalidRequest(
            "latest names no version: what it means changes.", hint="Choose one, such as v1.1.", param="version"
        )
    return version


def checked_notes(notes: str) -> str:
    """What somebody says of a release. Raises InvalidRequest for too much of it."""
    if len(notes) > NOTES_LIMIT or any(not (char.isprintable() or char in "\n\t") for char in notes):
        raise InvalidRequest(
            f"notes: at most {NOTES_LIMIT} characters, without control characters, are kept.", param="notes"
        )
    return notes


def release_name(name: str, default_model: str) -> str:
    """`v1.1` or `ramsey-model:v1.1` as a full name. Raises InvalidRequest for what cannot be one."""
    model, colon, tag = name.rpartition(":")
    if not (_TAG.fullmatch(tag) and (_MODEL.fullmatch(model) or not colon)):
        raise InvalidRequest(
            f"{_short(name)} is no release.", hint=f"Write it as {default_model}:v1.1, or v1.1.", param="release"
        )
    return f"{model or default_model}:{tag}"


def told_bytes(count: float) -> str:
    """A number of bytes, for people."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


@lru_cache(maxsize=64)
def _parsed(text: str) -> Modelfile:
    try:
        return modelfiles.parse(text, source="the kept Modelfile")
    except ConfigurationError as error:  # written by a newer version
        raise ConfigurationError(f"A kept release cannot be read: {error.message}") from None


def _short(text: str) -> str:
    return repr(text[:80])

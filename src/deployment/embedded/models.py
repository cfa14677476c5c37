"""An installed model with all that its layers say."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from deployment.embedded.names import parse_name
from deployment.embedded.store import Manifest, Store
from deployment.errors import InvalidRequest, ModelNotFound, RamseyError
from deployment.gguf import GgufHeader, read_metadata

# What llama.cpp uses for a GGUF without a template.
_CHATML = "<|im_start|> <|im_end|>"
_MARKER = re.compile(r"<\|[^|>]{1,40}\|>|</?[a-z_]{1,30}>|\[/?[A-Z_]{3,30}\]")


@dataclass(frozen=True)
class Model:
    """A model that can be loaded: its manifest, weights and layers."""

    manifest: Manifest
    blob: Path
    digest: str
    header: GgufHeader
    template: str
    system: str
    params: Mapping[str, Any]
    messages: tuple[Mapping[str, Any], ...]
    licenses: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its short name, with the tag."""
        return str(self.manifest.name)

    @property
    def chat_template(self) -> str:
        """The GGUF's own jinja template; the one that is used."""
        return self.header.chat_template or ""

    @cached_property
    def capabilities(self) -> list[str]:
        """What it can do, read from its chat template."""
        found = ["completion", "embedding"]
        if re.search(r"\btools\b", self.chat_template):
            found.append("tools")
        if re.search(r"enable_thinking|</?think>", self.chat_template):
            found.append("thinking")
        return found


class Models:
    """Finds models by name, and remembers what it has read."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read: dict[str, Model] = {}
        self._headers: dict[str, GgufHeader] = {}

    def find(self, text: str) -> Manifest:
        """The manifest of that name. Raises ModelNotFound or InvalidRequest."""
        manifest = self._store.find(parse_name(text))
        if manifest is None:
            raise ModelNotFound(f"model '{text}' not found")
        return manifest

    def get(self, text: str, purpose: str) -> Model:
        """The model of that name, whole; `purpose` is what a model without weights cannot do."""
        manifest = self.find(text)
        weights = manifest.layer("model")
        if weights is None or not self._store.has_blob(weights.digest):
            # Ollama's words for it: a gateway knows from them that a blob was lost.
            raise InvalidRequest(f'"{text}" does not support {purpose}')
        key = f"{manifest.name} {manifest.digest}"
        if key not in self._read:
            self._read[key] = self._build(manifest, weights.digest)
        return self._read[key]

    def header(self, digest: str) -> GgufHeader:
        """What a GGUF blob says about itself."""
        if digest not in self._headers:
            self._headers[digest] = read_metadata(self._store.blob_path(digest))
        return self._headers[digest]

    def _build(self, manifest: Manifest, digest: str) -> Model:
        def text(kind: str) -> str:
            return (self._store.read_blob(manifest.layer(kind)) or b"").decode("utf-8", errors="replace")

        try:
            params = orjson.loads(text("params") or "{}")
            messages = orjson.loads(text("messages") or "[]")
        except ValueError:
            raise RamseyError(f"the parameters or messages of {manifest.name} are not JSON") from None
        licenses = [self._store.read_blob(each) or b"" for each in manifest.layers if each.kind == "license"]
        return Model(
            manifest=manifest,
            blob=self._store.blob_path(digest),
            digest=digest,
            header=self.header(digest),
            template=text("template") or text("prompt"),
            system=text("system"),
            params=params,
            messages=tuple(messages),
            licenses=tuple(each.decode("utf-8", errors="replace") for each in licenses),
        )


def template_differs(modelfile: str, gguf: str | None) -> bool:
    """Whether a Modelfile's Go template seems to say something else than the GGUF's jinja template.

    They are two languages, so what is compared is the control markers in their literal text (`<|im_start|>`,
    `[INST]`): a template for another format has others.
    """
    if not modelfile.strip():
        return False
    return set(_MARKER.findall(modelfile)) != set(_MARKER.findall(gguf or _CHATML))


def details(manifest: Manifest, config: Mapping[str, Any]) -> dict[str, Any]:
    """The `details` of listings, from the model's config blob."""
    return {
        "parent_model": "",
        "format": config.get("model_format", ""),
        "family": config.get("model_family", ""),
        "families": config.get("model_families") or [],
        "parameter_size": config.get("model_type", ""),
        "quantization_level": config.get("file_type", ""),
        **{key: config[key] for key in ("context_length", "embedding_length") if config.get(key)},
    }


def human_count(count: int) -> str:
    """A number of parameters as Ollama writes it: 1.82M, 7B, 7.2B."""
    for size, unit, digits in ((10**9, "B", 1), (10**6, "M", 2)):
        if count >= size:
            return f"{count // size}{unit}" if count % size == 0 else f"{count / size:.{digits}f}{unit}"
    return f"{count / 1000:.0f}K" if count >= 1000 else str(count)

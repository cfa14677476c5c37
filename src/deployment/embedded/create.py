"""`/api/create`: a model from an uploaded GGUF or from another model, with what a Modelfile adds.

An uploaded GGUF stays as it is: its digest is the one that was uploaded. (Ollama rewrites the file, so that its
digest changes.) It is checked: a corrupt one is refused and no model is made.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from pathlib import PurePosixPath
from typing import Any

import orjson

from deployment.embedded.bodies import Create
from deployment.embedded.models import Models, human_count, template_differs
from deployment.embedded.names import ModelName, parse_name
from deployment.embedded.store import CONFIG_TYPE, LAYER_TYPE, Layer, Manifest, Store, parse_digest
from deployment.errors import ConfigurationError, InvalidRequest
from deployment.gguf import GgufHeader

log = logging.getLogger(__name__)


class Creator:
    """Makes models in the store. `lock` is held by everything that writes to it."""

    def __init__(self, store: Store, models: Models, lock: asyncio.Lock) -> None:
        self._store = store
        self._models = models
        self._lock = lock

    async def create(self, body: Create) -> AsyncGenerator[dict[str, Any], None]:
        """Progress, one object a step; the last is `success`."""
        name = parse_name(body.target)
        _refuse_unsupported(name, body)
        async with self._lock:
            yield {"status": "parsing GGUF"}
            base = self._models.find(body.from_) if body.from_ else None
            weights = self._weights(body, base)
            yield {"status": "validating GGUF model"}
            header = await asyncio.to_thread(self._header, weights.digest)
            if template_differs(body.template, header.chat_template):
                warning = "the TEMPLATE differs from the GGUF's chat template, which is the one used"
                log.warning("create %s: %s", name, warning)
                yield {"status": f"warning: {warning}"}
            yield {"status": f"using existing layer {weights.digest}"}
            layers = [weights]
            for kind, content in self._contents(body, base):
                layer, new = await asyncio.to_thread(self._store.put, content, LAYER_TYPE + kind)
                layers.append(layer)
                yield {"status": f"{'creating new' if new else 'using existing'} layer {layer.digest}"}
            config = orjson.dumps(_config(header, layers))
            config_layer, _ = await asyncio.to_thread(self._store.put, config, CONFIG_TYPE)
            yield {"status": "writing manifest"}
            await asyncio.to_thread(self._store.write, name, config_layer, layers)
            yield {"status": "success"}

    def _weights(self, body: Create, base: Manifest | None) -> Layer:
        if base is not None:
            layer = base.layer("model")
            if layer is None or not self._store.has_blob(layer.digest):
                raise InvalidRequest(f'"{body.from_}" has lost its weights: create it again')
            return layer
        if len(body.files) != 1:
            raise InvalidRequest("exactly one GGUF file is needed")
        ((path, digest_text),) = body.files.items()
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise InvalidRequest(f"invalid file path {path!r}: it must be relative and stay inside")
        digest = parse_digest(digest_text)
        if not self._store.has_blob(digest):
            raise InvalidRequest(f"blob {digest} is not here: upload it to /api/blobs/{digest} first")
        return Layer(LAYER_TYPE + "model", digest, self._store.blob_path(digest).stat().st_size)

    def _header(self, digest: str) -> GgufHeader:
        try:
            return self._models.header(digest)
        except ConfigurationError as error:
            raise InvalidRequest(f"invalid GGUF: {error.message}", hint=error.hint) from error

    def _contents(self, body: Create, base: Manifest | None) -> list[tuple[str, bytes]]:
        """The layers beside the weights: what the request says, over what the base model has."""
        kept = {kind: self._store.read_blob(base.layer(kind)) if base else None for kind in _INHERITED}
        template = body.template.encode() or kept["template"]
        system = body.system.encode() or kept["system"]
        params = orjson.loads(kept["params"] or b"{}") | body.parameters
        messages = orjson.dumps(body.messages) if body.messages else kept["messages"]
        licenses = [body.license] if isinstance(body.license, str) else body.license
        texts = [text.encode() for text in licenses if text]
        if not texts and base is not None:
            blobs = [self._store.read_blob(each) for each in base.layers if each.kind == "license"]
            texts = [blob for blob in blobs if blob]
        found = [("template", template), ("system", system)]
        found += [("params", orjson.dumps(params, option=orjson.OPT_SORT_KEYS) if params else None)]
        found += [("messages", messages), *(("license", text) for text in texts)]
        return [(kind, content) for kind, content in found if content]


_INHERITED = ("template", "system", "params", "messages")


def _refuse_unsupported(name: ModelName, body: Create) -> None:
    if name.tag.lower() == "cloud" or name.tag.lower().endswith("-cloud"):
        raise InvalidRequest("invalid model name: Ollama sends the prompts of such a tag to ollama.com")
    if not body.from_ and not body.files:
        raise InvalidRequest("neither 'from' or 'files' was specified")
    if body.adapters:
        raise InvalidRequest("adapters are not supported here: merge the adapter into the GGUF first")
    if body.quantize:
        raise InvalidRequest("quantize is not supported here: quantize the GGUF with llama.cpp first")


def _config(header: GgufHeader, layers: list[Layer]) -> dict[str, Any]:
    """The config blob; the same for the same input, so that nodes agree on digests."""
    return {
        "model_format": "gguf",
        "model_family": header.architecture,
        "model_families": [header.architecture],
        "model_type": human_count(header.parameter_count),
        "file_type": header.file_type_name,
        "context_length": header.context_length or 0,
        "embedding_length": header.embedding_length or 0,
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
    }

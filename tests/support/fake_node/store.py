"""A fake node's store: tags, show, create, copy, delete and blobs, with Ollama's statuses."""

import asyncio
import hashlib
import re
from dataclasses import replace
from typing import Any

import orjson
from tests.support.fake_node import strikes
from tests.support.fake_node.exchange import Exchange, Gone, Refused
from tests.support.fake_node.faults import Fault
from tests.support.fake_node.models import FakeModel, full_name, sha256

_DIGEST = re.compile(r"^sha256[:-][0-9a-f]{64}$")
_NAME = re.compile(r"^([A-Za-z0-9_][\w.:-]*/)*[A-Za-z0-9_][\w.-]{0,79}(:[A-Za-z0-9_][\w.-]{0,79})?$", re.ASCII)


class Store:
    """The models, by full name, and the digests of the blobs. Letter case matters."""

    def __init__(self, models: dict[str, FakeModel]) -> None:
        self.models = models
        self.blobs = {model.weights for model in models.values()}
        self.version = ""
        self.copy_window_s = 0.0
        self.step_s = 0.0
        self.uploads = 0
        self._torn: set[str] = set()

    def find(self, name: str) -> FakeModel:
        name = full_name(name)
        if name in self._torn:
            raise Refused(500, "unexpected EOF")
        model = self.models.get(name)
        if model is None:
            raise Refused(404, f"model '{name.removesuffix(':latest')}' not found")
        return model

    async def tags(self, x: Exchange, _: Any) -> None:
        await x.json({"models": [model.row() for model in self.models.values()]})

    async def show(self, x: Exchange, body: dict[str, Any]) -> None:
        model = self.find(body.get("model") or body.get("name") or "")
        lines = []
        for key, value in model.parameters.items():
            for one in value if isinstance(value, list) else [value]:
                lines.append(f"{key} {orjson.dumps(one).decode()}")
        await x.json(
            {
                "modelfile": f"FROM {model.weights}\n",
                "parameters": "\n".join(lines),
                "template": model.template,
                "system": model.system,
                "details": model.details(),
                "model_info": {"general.architecture": "llama", "llama.context_length": 4096},
                "capabilities": list(model.capabilities),
                "modified_at": model.row()["modified_at"],
            }
        )

    async def blob(self, x: Exchange) -> None:
        digest = x.path.removeprefix("/api/blobs/").replace("-", ":")
        if not _DIGEST.match(digest):
            raise Refused(400, "invalid digest format")
        if x.method == "HEAD":
            return await x.raw(b"", 200 if digest in self.blobs else 404)
        self.uploads += x.method == "POST"
        if digest in self.blobs:
            return await x.raw(b"")
        actual = "sha256:" + hashlib.sha256(await x.body()).hexdigest()
        self.blobs.add(actual)
        if actual != digest:
            raise Refused(400, "digest mismatch, expected " + digest)
        return await x.raw(b"", 201)

    async def create(self, x: Exchange, body: dict[str, Any]) -> None:
        name = body.get("model") or body.get("name") or ""
        if not _NAME.match(name):
            raise Refused(400, "invalid model name")
        source, files = body.get("from"), body.get("files") or {}
        if not source and not files:
            raise Refused(400, "neither 'from' or 'files' was specified")
        states = ["parsing GGUF", "validating GGUF model", "verifying conversion"]
        if source:
            states = []
            base = self.find(source).renamed(full_name(name))
        else:
            for path, digest in files.items():
                if path.startswith("/") or ".." in path.split("/"):
                    raise Refused(400, "invalid file path")
                if digest not in self.blobs:
                    raise Refused(400, f"blob {digest} not found")
            # Ollama writes the file anew: the layer's digest is not the uploaded one, and each version has its own.
            weights = f"sha256:{sha256(f'rewritten by {self.version} ' + next(iter(files.values())))}"
            base = FakeModel(full_name(name), blob=weights)
        base = replace(
            base,
            parameters={**base.parameters, **(body.get("parameters") or {})},
            system=body.get("system") or base.system,
            template=body.get("template") or base.template,
        )
        states += [f"creating new layer {base.weights}", "writing manifest", "success"]
        fault: Fault | None = body.pop("_fault", None)
        if streams := body.get("stream") is not False:
            await x.start_stream()
        for number, state in enumerate(states):
            if fault is not None and number == fault.after:
                await strikes.within(x, fault, b"{}", may_die=False)
            if self.step_s:
                await x.pause(self.step_s)
            if streams:
                await x.write(orjson.dumps({"status": state}) + b"\n")
        self.blobs.add(base.weights)
        self.models[base.name] = base
        return await (x.end_stream() if streams else x.json({"status": "success"}))

    async def copy(self, x: Exchange, body: dict[str, Any]) -> None:
        target = body.get("destination") or ""
        if not _NAME.match(target):
            raise Refused(400, f'destination "{target}" is invalid')
        source = self.find(body.get("source") or "")
        target = full_name(target)
        if self.copy_window_s:  # the manifest is written in place: for a while it is empty
            self._torn.add(target)
            try:
                await asyncio.sleep(self.copy_window_s)
            finally:
                self._torn.discard(target)
        if x.gone():
            raise Gone
        self.models[target] = source.renamed(target)
        await x.raw(b"")

    async def delete(self, x: Exchange, body: dict[str, Any]) -> None:
        model = self.find(body.get("model") or body.get("name") or "")
        del self.models[model.name]
        if all(other.weights != model.weights for other in self.models.values()):
            self.blobs.discard(model.weights)
        await x.raw(b"")

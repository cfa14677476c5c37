"""Gates that look at the nodes: digests, memory, load, smoke prompts."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from deployment.clock import Clock
from deployment.engines import MEMORY_LABEL, NodeView
from deployment.errors import EngineError
from deployment.gguf import GgufHeader, read_metadata
from deployment.ollama_client import OllamaClient, Timeouts
from deployment.releases.catalogue.artefacts import Artefacts
from deployment.releases.catalogue.gates.model import GateContext, GateResult
from deployment.releases.catalogue.model import CatalogueEntry, told_bytes
from deployment.releases.deploy import LOOK

_CACHE_BYTES = 2
"""Of one number in the cache of a conversation: F16, as engines do by default."""
_SMOKE = Timeouts(first_token=60.0, total=120.0)
_SMOKE_TOKENS = 32


class Loader(Protocol):
    """Who loads releases."""

    async def load(self, release: str, names: Collection[str]) -> Mapping[str, EngineError | None]:
        """What failed on each node."""
        ...


class DigestsGate:
    """Every node holds the release, with one digest."""

    name = "digests"

    async def check(self, context: GateContext) -> GateResult:
        """Ask the nodes themselves."""
        found = await asyncio.gather(*(_digest(node, context.entry.name) for node in context.nodes))
        told = dict(zip((node.name for node in context.nodes), found, strict=True))
        if not told:
            return GateResult(self.name, False, "There is no node for it.")
        if absent := {name: why for name, (digest, why) in told.items() if digest is None}:
            reason = " ".join(f"{name}: {why}" for name, why in absent.items())
            return GateResult(self.name, False, f"{len(absent)} of {len(told)} nodes lack it. {reason}")
        digests = {digest for digest, _ in told.values()}
        if len(digests) > 1:
            each = ", ".join(f"{name} {str(digest)[:12]}" for name, (digest, _) in told.items())
            return GateResult(self.name, False, f"Nodes hold different ones: {each}.")
        return GateResult(self.name, True, f"{len(told)} of {len(told)} nodes hold {str(digests.pop())[:12]}.")


class MemoryGate:
    """The weights and the caches of its slots fit beside what is loaded."""

    name = "memory"

    def __init__(self, artefacts: Artefacts, context_length: int) -> None:
        """`context_length`: of a slot, where the release says nothing."""
        self._artefacts, self._context_length = artefacts, context_length

    async def check(self, context: GateContext) -> GateResult:
        """Compare with the label of each node; one without it passes, and the reason says so."""
        header = await asyncio.to_thread(read_metadata, self._artefacts.path(context.entry.weights_sha256))
        told, silent, fits = [], [], True
        for node in context.nodes:
            has = node.memory_bytes
            need = needed_bytes(context.entry, header, node.slots, self._context_length)
            if has is None:
                silent.append(node.name)
                continue
            used = await _loaded_bytes(node, context.entry.name)
            fits = fits and need + used <= has
            told.append(f"{node.name} has {told_bytes(has)}, {told_bytes(used)} in use; it needs {told_bytes(need)}.")
        if silent:
            told.append(f"{', '.join(silent)} say nothing of their memory (label {MEMORY_LABEL}); the load will tell.")
        return GateResult(self.name, fits, " ".join(told) or "There is no node for it.")


class LoadGate:
    """Every node loads it."""

    name = "load"

    def __init__(self, loader: Loader, clock: Clock) -> None:
        self._loader, self._clock = loader, clock

    async def check(self, context: GateContext) -> GateResult:
        """Load it everywhere at the same time."""
        began = self._clock.monotonic()
        loads = await self._loader.load(context.entry.name, {node.name for node in context.nodes})
        failed = {name: error for name, error in loads.items() if error is not None}
        if failed or not loads:
            reason = " ".join(f"{name}: {error.message}" for name, error in failed.items())
            return GateResult(self.name, False, f"{len(failed)} of {len(loads)} nodes cannot load it. {reason}".strip())
        spent = self._clock.monotonic() - began
        return GateResult(self.name, True, f"{len(loads)} of {len(loads)} nodes loaded it within {spent:.1f} s.")


class SmokeGate:
    """Every node answers a few prompts with some text."""

    name = "smoke"

    def __init__(self, prompts: Sequence[str], clock: Clock) -> None:
        self._prompts, self._clock = prompts, clock

    async def check(self, context: GateContext) -> GateResult:
        """Ask each node itself, one prompt after another."""
        began = self._clock.monotonic()
        problems = [
            each for each in await asyncio.gather(*(self._ask(node, context) for node in context.nodes)) if each
        ]
        if problems:
            return GateResult(self.name, False, " ".join(problems))
        asked, spent = len(self._prompts) * len(context.nodes), self._clock.monotonic() - began
        return GateResult(self.name, asked > 0, f"{asked} of {asked} prompts were answered within {spent:.1f} s.")

    async def _ask(self, node: NodeView, context: GateContext) -> str | None:
        async with OllamaClient(node.url, context.entry.name, timeouts=_SMOKE) as client:
            for prompt in self._prompts:
                message = {"role": "user", "content": prompt}
                try:
                    answer = await client.chat([message], options={"num_predict": _SMOKE_TOKENS})
                except EngineError as error:
                    return f"{node.name} failed at {prompt[:60]!r}: {error.message}"
                if not (answer.text.strip() or answer.thinking.strip()):
                    return f"{node.name} said nothing to {prompt[:60]!r}."
        return None


def needed_bytes(entry: CatalogueEntry, header: GgufHeader, slots: int, context_length: int) -> int:
    """The weights, and for each slot a key and a value of each layer and position of its context.

    As llama.cpp sizes its cache: 2 x layers x positions x heads of keys x width of a head x 2 bytes; what the
    header does not say is estimated upwards from the width of the model.
    """
    arch, told = header.architecture, header.metadata
    layers = _number(told.get(f"{arch}.block_count"), 1)
    heads = _number(told.get(f"{arch}.attention.head_count"), 1)
    width = (header.embedding_length or 0) // heads
    keys = _number(told.get(f"{arch}.attention.key_length"), width)
    values = _number(told.get(f"{arch}.attention.value_length"), width)
    kv_heads = _number(told.get(f"{arch}.attention.head_count_kv"), heads)
    positions = _number(entry.load_options.get("num_ctx"), min(context_length, header.context_length or context_length))
    return entry.weights_bytes + slots * layers * positions * kv_heads * (keys + values) * _CACHE_BYTES


def _number(value: Any, default: int) -> int:
    """The value; of one for each layer the largest."""
    if isinstance(value, list):
        value = max((each for each in value if isinstance(each, int)), default=None)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else default


async def _loaded_bytes(node: NodeView, besides: str) -> int:
    async with OllamaClient(node.url, timeouts=LOOK) as client:
        return sum(int(row.get("size") or 0) for row in await client.ps() if row.get("name") != besides)


async def _digest(node: NodeView, release: str) -> tuple[str | None, str]:
    try:
        async with OllamaClient(node.url, timeouts=LOOK) as client:
            for row in await client.tags():
                if str(row.get("name")).lower() == release:
                    return str(row.get("digest")), ""
    except EngineError as error:
        return None, error.message
    return None, "it does not hold the release."

"""Brings releases onto nodes: the same bytes, and in the end the same digest, on every one of them."""

import asyncio
import contextlib
import io
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import structlog

from deployment.access import Principal
from deployment.engines import NodeView
from deployment.errors import Conflict, EngineError, EngineTimeout, EngineUnavailable, RamseyError
from deployment.gguf import read_metadata
from deployment.modelfile import Modelfile
from deployment.ollama_client import OllamaClient
from deployment.releases.catalogue.model import CatalogueEntry, with_files
from deployment.releases.catalogue.service import Catalogue
from deployment.releases.deploy import LOOK
from deployment.releases.model import Recipe, differences
from deployment.settings import shown_url

_log = structlog.get_logger("distribution")


class Nodes(Protocol):
    """What the pool does for us."""

    def view(self) -> list[NodeView]:
        """Every node as it is now."""
        ...

    async def unload(self, release: str) -> None:
        """Unload a release everywhere, and keep it loaded no more."""
        ...


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What became of a release on a node."""

    node: str
    ok: bool
    digest: str | None = None
    problem: str | None = None
    """What is wrong there and what to do, in words; None when nothing is."""


@dataclass(slots=True)
class Doing:
    """What goes on now on one node."""

    node: str
    release: str
    step: str = "waiting"
    """waiting, checking, reading, uploading or creating."""
    done: int = 0
    size: int = 0
    """Bytes of the upload, those that the node has and all."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """A release that went off a node, or did not."""

    node: str
    release: str
    problem: str | None = None


class Distribution:
    """One for a process. Works go on when their callers leave; each release once for a node at a time."""

    def __init__(self, catalogue: Catalogue, nodes: Nodes, stall_s: float) -> None:
        self._catalogue = catalogue
        self._nodes = nodes
        self._stall_s = stall_s
        self._works: dict[tuple[str, str], asyncio.Task[NodeReport]] = {}
        self._doing: dict[tuple[str, str], Doing] = {}
        self._writing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def close(self) -> None:
        """Give up what goes on."""
        works = list(self._works.values())
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)

    def doing(self) -> list[Doing]:
        """What goes on now."""
        return list(self._doing.values())

    async def ensure(self, release: str, nodes: Sequence[NodeView]) -> dict[str, NodeReport]:
        """See to it that each of these nodes holds the release; doing it again changes nothing.

        What is wrong on a node stands in its report. Raises NotFound for a release that there is not, Conflict for
        one that was deleted.
        """
        entry = await self._catalogue.get(release)
        if entry.deleted_at is not None:
            raise Conflict(
                f"{entry.name} was deleted on {entry.deleted_at:%Y-%m-%d %H:%M} UTC: its weights are gone.",
                hint="Create it again from the same Modelfile, with the same version.",
            )
        works = {node.name: self._work(entry, node) for node in nodes}
        if works:
            await asyncio.wait(works.values())  # unlike gather, it leaves them alone when the caller goes
        reports = [
            NodeReport(name, False, problem="It was given up.") if work.cancelled() else work.result()
            for name, work in works.items()
        ]
        if entry.pruned_at is not None and any(report.ok for report in reports):
            await self._catalogue.note_pruned(entry.name, None)
        return {report.node: report for report in reports}

    async def prune(self, keep: int, protected: Collection[str], actor: Principal) -> list[Pruned]:
        """Take releases off the nodes, but the newest `keep` of each model and those that are `protected`.

        Only what the catalogue keeps goes, so that it can come back.
        """
        entries = await self._catalogue.list()
        old = [entry for entry in entries if entry.name not in protected and entry.name not in _newest(entries, keep)]
        nodes = self._nodes.view()
        results = await asyncio.gather(*(self._remove(old, node) for node in nodes))
        pruned = [each for result in results for each in result]
        gone = {each.release for each in pruned} - {each.release for each in pruned if each.problem is not None}
        for name in sorted(gone):
            await self._catalogue.note_pruned(name, actor)
        return pruned

    async def remove(self, entry: CatalogueEntry) -> list[Pruned]:
        """Take one release off every node."""
        results = await asyncio.gather(*(self._remove([entry], node) for node in self._nodes.view()))
        return [each for result in results for each in result]

    # --- one release on one node --------------------------------------------------------------------------------

    def _work(self, entry: CatalogueEntry, node: NodeView) -> "asyncio.Task[NodeReport]":
        key = (node.url, entry.name)
        if (work := self._works.get(key)) is None:
            work = self._works[key] = asyncio.create_task(self._report(entry, node), name=f"bring {key}")
            work.add_done_callback(lambda _: self._works.pop(key, None))
        return work

    async def _report(self, entry: CatalogueEntry, node: NodeView) -> NodeReport:
        key = (node.url, entry.name)
        doing = self._doing[key] = Doing(node.name, entry.name)
        try:
            # Ollama may lose a blob that one call deletes while another wants to use it.
            async with self._writing[node.url], OllamaClient(node.url, entry.model, timeouts=LOOK) as client:
                digest = await self._bring(client, entry, node, doing)
            return await self._agreed(entry, node, digest)
        except RamseyError as error:
            return NodeReport(node.name, False, problem=_told(error, node.name, doing))
        finally:
            del self._doing[key]

    async def _bring(self, client: OllamaClient, entry: CatalogueEntry, node: NodeView, doing: Doing) -> str:
        doing.step = "checking"
        row = await _row(client, entry.name)
        if row is not None:
            digest = str(row.get("digest"))
            lost = any(each.release == entry.name and each.present is False for each in node.releases)
            if entry.digest is None:
                await self._refuse_another(client, entry, row)
            if not (lost and digest == entry.digest):  # its weights may be gone though it is listed
                return digest
        modelfile = await self._upload(client, entry, doing)
        doing.step = "creating"
        digest = await client.create(
            entry.name,
            modelfile,
            silence_s=self._stall_s,
            known={str(self._catalogue.artefacts.path(each)): f"sha256:{each}" for each in entry.artefacts},
        )
        _log.info("created", release=entry.name, node=node.name, digest=digest)
        return digest

    async def _upload(self, client: OllamaClient, entry: CatalogueEntry, doing: Doing) -> Modelfile:
        files = {each: self._catalogue.artefacts.path(each) for each in entry.artefacts}
        for sha256, path in files.items():
            if await client.has_blob(f"sha256:{sha256}"):
                continue
            doing.step = "reading"
            await asyncio.to_thread(self._catalogue.artefacts.verified, sha256, entry.name)
            doing.step, doing.done, doing.size = "uploading", 0, path.stat().st_size
            with _Counted.opened(path, doing) as file:
                await client.request("POST", f"/api/blobs/sha256:{sha256}", file, silence_s=self._stall_s)
        return with_files(entry.modelfile, files)

    async def _refuse_another(self, client: OllamaClient, entry: CatalogueEntry, row: dict[str, Any]) -> None:
        """Nobody noted what digest it has: what stands under its name must be what we would make."""
        header = await asyncio.to_thread(read_metadata, self._catalogue.artefacts.path(entry.weights_sha256))
        recipe = Recipe(entry.modelfile, entry.weights_sha256, entry.adapters, header)
        if found := differences(recipe, await client.show(entry.name), row.get("size")):
            raise Conflict(
                f"It holds another {entry.name}: its {' and '.join(found)} differ.",
                hint=f"Delete that one there: OLLAMA_HOST={client.host} ollama rm {entry.name}",
            )

    async def _agreed(self, entry: CatalogueEntry, node: NodeView, digest: str) -> NodeReport:
        """Whether it is the digest that the other nodes have. What nobody holds any more binds nobody."""
        noted = await self._catalogue.learn_digest(entry.name, digest, None)
        if noted not in {digest, None}:
            holder = await self._holder(entry.name, str(noted), node)
            if holder is None:
                noted = await self._catalogue.learn_digest(entry.name, digest, noted)
            if noted != digest:
                return NodeReport(node.name, False, digest, _differs(entry.name, node, digest, holder, str(noted)))
        return NodeReport(node.name, True, digest)

    async def _holder(self, name: str, digest: str, besides: NodeView) -> NodeView | None:
        """Another node that has that digest, or that does not say."""
        for node in self._nodes.view():
            if node.url != besides.url:
                try:
                    async with OllamaClient(node.url, timeouts=LOOK) as client:
                        row = await _row(client, name)
                except EngineError:
                    if any(each.release == name and each.present for each in node.releases):
                        return node
                else:
                    if row is not None and row.get("digest") == digest:
                        return node
        return None

    async def _remove(self, entries: Iterable[CatalogueEntry], node: NodeView) -> list[Pruned]:
        done: list[Pruned] = []
        try:
            async with self._writing[node.url], OllamaClient(node.url, timeouts=LOOK) as client:
                held = {str(row.get("name")).lower() for row in await client.tags()}
                done.extend([await self._delete(client, each.name, node) for each in entries if each.name in held])
        except EngineError as error:
            _log.warning("not pruned", node=node.name, reason=error.message)
            held = {each.release for each in node.releases if each.present}
            done += [Pruned(node.name, entry.name, error.message) for entry in entries if entry.name in held]
        return done

    async def _delete(self, client: OllamaClient, release: str, node: NodeView) -> Pruned:
        with contextlib.suppress(EngineError, TimeoutError):  # deleting does not unload, nor waits for it
            async with asyncio.timeout(LOOK.total):
                await self._nodes.unload(release)
        try:
            await client.delete(release)
        except EngineError as error:
            return Pruned(node.name, release, error.message)
        _log.info("taken off", release=release, node=node.name)
        return Pruned(node.name, release)


def missing(release: str, nodes: Iterable[NodeView]) -> list[NodeView]:
    """The nodes that answer, but do not hold the release (or not the one of its digest)."""
    return [
        node
        for node in nodes
        if node.version is not None and not any(each.release == release and each.present for each in node.releases)
    ]


class _Counted(io.FileIO):
    """A file that tells how much of it was read."""

    doing: Doing

    @classmethod
    def opened(cls, path: Path, doing: Doing) -> io.BufferedReader:
        raw = cls(path)
        raw.doing = doing
        return io.BufferedReader(raw, 1024 * 1024)

    def readinto(self, buffer: Any, /) -> int:
        count = super().readinto(buffer) or 0
        self.doing.done += count
        return count


def _newest(entries: Sequence[CatalogueEntry], keep: int) -> set[str]:
    """The names of the newest of each model; `entries` are the newest first."""
    kept: defaultdict[str, list[str]] = defaultdict(list)
    for entry in entries:
        if entry.deleted_at is None and len(kept[entry.model]) < keep:
            kept[entry.model].append(entry.name)
    return {name for names in kept.values() for name in names}


async def _row(client: OllamaClient, name: str) -> dict[str, Any] | None:
    """What a node lists of a release."""
    return next((row for row in await client.tags() if str(row.get("name")).lower() == name), None)


def _told(error: RamseyError, node: str, doing: Doing) -> str:
    if "no space left" in error.message.lower():
        return f"The disk of {node} is full. Free some space where it keeps its models."
    if isinstance(error, EngineUnavailable | EngineTimeout):
        at = f" after {doing.done} of {doing.size} bytes" if doing.step == "uploading" else ""
        return f"{node} went away while {doing.step}{at}: {error.message}"
    return f"{error.message} {error.hint or ''}".strip()


def _differs(name: str, node: NodeView, digest: str, holder: NodeView | None, noted: str) -> str:
    text = f"Its {name} has the digest {digest[:12]}, not {noted[:12]}"
    if holder is None:
        return f"{text}, which another gateway has just noted."
    if holder.version != node.version:
        return (
            f"{text} as on {holder.name}: it runs Ollama {node.version}, {holder.name} {holder.version}, and versions "
            "write weights differently. Run one version, then delete it there: "
            f"OLLAMA_HOST={shown_url(node.url)} ollama rm {name}"
        )
    return f"{text} as on {holder.name}. Delete it there: OLLAMA_HOST={shown_url(node.url)} ollama rm {name}"

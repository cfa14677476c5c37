"""The admin API of releases."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import StreamingResponse

from deployment.access import AdminRoute, Callers, Needs, Permission, Principal
from deployment.errors import Draining, RamseyError
from deployment.releases.catalogue.evaluation import MOST_BYTES, parse_questions
from deployment.releases.catalogue.model import CatalogueEntry, release_name
from deployment.releases.catalogue.service import Wish
from deployment.settings import Settings

if TYPE_CHECKING:
    from deployment.releases.catalogue.room import CatalogueRoom

BLOBS = "/admin/releases/blobs/"
"""Bodies of any size go there, and are not kept in memory."""

_PROGRESS_S = 0.25
_Name = Annotated[str, Field(max_length=170)]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ReleaseIn(_Body):
    """A release to be made of files that were uploaded before."""

    model: str | None = Field(None, max_length=80, description="By default the gateway's own.")
    version: str | None = Field(None, max_length=80, examples=["v1.1"], description="By default the weights' own.")
    notes: str = Field("", max_length=2000)
    again: bool = Field(False, description="The very same release may be there: only its files are given once more.")
    modelfile: str = Field(max_length=1024 * 1024, description="The Modelfile's text.")
    files: dict[Annotated[str, Field(max_length=4096)], _Sha256] = Field(
        max_length=17, description="SHA-256 of each file that FROM and ADAPTER name, by what stands there."
    )


class EvaluateIn(_Body):
    """Questions with known answers."""

    questions: str | None = Field(
        None,
        max_length=MOST_BYTES,
        description="One JSON object a line, with prompt and expect; by default the settings' evaluation set.",
    )
    stream: bool = Field(True, description="Always: progress comes as server-sent events.")


class DistributeIn(_Body):
    """Where a release is to come."""

    nodes: list[_Name] | None = Field(None, max_length=1000, description="Names of nodes; by default all.")
    stream: bool = Field(True, description="Always: progress comes as server-sent events.")


class PruneIn(_Body):
    """How many stay."""

    keep: int | None = Field(None, ge=1, le=100, description="By default releases.keep.")


class PrunedOut(BaseModel):
    """What went off a node, or did not."""

    node: str
    release: str
    problem: str | None


class BlobOut(BaseModel):
    """Whether a file is kept."""

    sha256: str
    present: bool


class OnNodeOut(BaseModel):
    """A release on a node."""

    node: str
    present: bool | None
    loaded: bool
    step: str | None = Field(description="What goes on now: waiting, checking, reading, uploading or creating.")
    done: int = Field(description="Bytes of an upload that the node has.")
    size: int


class ReleaseOut(BaseModel):
    """A release."""

    name: str
    model: str
    version: str
    created_at: datetime
    created_by: str
    notes: str
    weights_sha256: str
    weights_bytes: int
    digest: str | None = Field(description="As nodes name it; null before it was on one.")
    recipe_digest: str = Field(description="Equal for equal weights, template, system and parameters.")
    traffic: float | None = Field(description="Its part of the traffic; 0 kept warm, null without a share.")
    evaluation: dict[str, Any] | None
    pruned_at: datetime | None
    deleted_at: datetime | None
    nodes: list[OnNodeOut]


class ReleaseDetail(ReleaseOut):
    """A release with what it is made of."""

    system: str | None
    template: str | None
    parameters: dict[str, Any]
    load_options: dict[str, Any]
    modelfile: str = Field(description="With digests in place of paths.")


def catalogue_routes(room: "CatalogueRoom", settings: Settings, authenticator: Callers) -> APIRouter:
    """`/admin/releases`."""
    router = APIRouter(prefix="/admin/releases", tags=["releases"], route_class=AdminRoute)
    reader = Annotated[Principal, Depends(Needs(Permission.RELEASES_READ, authenticator))]
    writer = Annotated[Principal, Depends(Needs(Permission.RELEASES_WRITE, authenticator))]
    _blob_routes(router, room, settings, writer)
    _work_routes(router, room, settings, writer)

    @router.get("", summary="List the releases")
    async def list_releases(
        caller: reader, model: Annotated[str | None, Query(max_length=80)] = None
    ) -> list[ReleaseOut]:
        """Every release, the newest first."""
        return [ReleaseOut(**_shown(entry, room)) for entry in await room.catalogue.list(model)]

    @router.post("", status_code=201, summary="Create a release")
    async def create_release(caller: writer, body: ReleaseIn) -> ReleaseDetail:
        """It exists once and never changes. 409 for a version that there is."""
        wish = Wish(body.model or settings.model.name, body.version, body.notes, body.again)
        return _detail(await room.catalogue.create_uploaded(body.modelfile, body.files, wish, caller), room)

    @router.get("/{name}", summary="Show a release")
    async def show_release(caller: reader, name: str) -> ReleaseDetail:
        """What it is made of, and where it is."""
        return _detail(await room.catalogue.get(name), room)

    @router.delete("/{name}", status_code=204, summary="Delete a release")
    async def delete_release(caller: writer, name: str) -> None:
        """Off every node, and its weights gone; its version stays taken. 409 while it has a share of the traffic."""
        await room.delete(name, caller)

    return router


def _blob_routes(router: APIRouter, room: "CatalogueRoom", settings: Settings, writer: Any) -> None:
    @router.get("/blobs/{sha256}", summary="Look whether a file is kept")
    async def look_for_blob(caller: writer, sha256: str) -> BlobOut:
        """So that it need not be uploaded again."""
        return BlobOut(sha256=sha256, present=await asyncio.to_thread(room.catalogue.artefacts.has, sha256))

    @router.put("/blobs/{sha256}", status_code=201, summary="Upload a file")
    async def upload_blob(caller: writer, sha256: str, request: Request) -> BlobOut:
        """The body is the file, for instance a GGUF. 400 where its SHA-256 is another; nothing is kept then."""
        declared = request.headers.get("content-length", "")
        await room.catalogue.artefacts.receive(
            sha256,
            request.stream(),
            int(declared) if declared.isdecimal() else None,
            settings.releases.stall_seconds,
        )
        return BlobOut(sha256=sha256, present=True)


def _work_routes(router: APIRouter, room: "CatalogueRoom", settings: Settings, writer: Any) -> None:
    @router.post("/prune", summary="Take old releases off the nodes")
    async def prune_releases(caller: writer, body: PruneIn) -> list[PrunedOut]:
        """All but the newest, and never one with traffic or kept warm. They come back when they are deployed."""
        await room.catalogue.sweep()
        return [PrunedOut(**asdict(each)) for each in await room.prune(caller, body.keep)]

    @router.post("/{name}/distribute", summary="Bring a release onto nodes", response_class=StreamingResponse)
    async def distribute_release(caller: writer, name: str, body: DistributeIn) -> StreamingResponse:
        """Server-sent events: `steps` while it goes on, then `done` with a report for each node.

        It goes on where the caller leaves.
        """
        full = release_name(name, settings.model.name)
        nodes = [node for node in room.nodes() if body.nodes is None or node.name in body.nodes]

        async def work() -> dict[str, Any]:
            await room.catalogue.get(full)
            await room.catalogue.note_distribution(full, [node.name for node in nodes], caller)
            return {"reports": [asdict(report) for report in (await room.place(full, nodes)).values()]}

        def steps() -> dict[str, Any]:
            return {"steps": [asdict(each) for each in room.distribution.doing() if each.release == full]}

        return _streamed(work(), steps, room)

    @router.post("/{name}/evaluate", summary="Evaluate a release", response_class=StreamingResponse)
    async def evaluate_release(caller: writer, name: str, body: EvaluateIn) -> StreamingResponse:
        """Server-sent events: `asked`, `of` and `right` while it goes on, then `done` with the scores.

        It ends where the caller leaves.
        """
        questions = None if body.questions is None else parse_questions(body.questions)
        progress: dict[str, Any] = {"asked": 0, "of": 0, "right": 0}

        def told(asked: int, of: int, right: int) -> None:
            progress.update(asked=asked, of=of, right=right)

        async def work() -> dict[str, Any]:
            return {"evaluation": (await room.evaluate(name, questions, told, caller)).document()}

        return _streamed(work(), lambda: progress, room)


def _streamed(
    work: Awaitable[Mapping[str, Any]], progress: Callable[[], Mapping[str, Any]], room: "CatalogueRoom"
) -> StreamingResponse:
    """Progress now and then, and at last what came of it, or the error."""

    async def events() -> AsyncIterator[bytes]:
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=_PROGRESS_S))[0]:
                if room.leaving():
                    raise Draining("The gateway is stopping; what it did for you is given up.", hint="Ask again later.")
                yield _event({**progress(), "done": False})
            yield _event({**task.result(), "done": True})
        except RamseyError as error:
            told = {"code": error.code, "message": error.message, "hint": error.hint}
            yield b"event: error\n" + _event({"error": told})
        finally:
            task.cancel()

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def _event(value: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def _shown(entry: CatalogueEntry, room: "CatalogueRoom") -> dict[str, Any]:
    shared = {name: getattr(entry, name) for name in ReleaseOut.model_fields if hasattr(entry, name)}
    return shared | {
        "version": entry.tag,
        "traffic": room.traffic_of(entry.name),
        "nodes": [_on(node.name, node.releases, entry.name, room) for node in room.nodes()],
    }


def _on(node: str, releases: Any, name: str, room: "CatalogueRoom") -> OnNodeOut:
    held = next((each for each in releases if each.release == name), None)
    doing = next((each for each in room.distribution.doing() if (each.node, each.release) == (node, name)), None)
    return OnNodeOut(
        node=node,
        present=held.present if held is not None else False,
        loaded=held is not None and held.loaded,
        step=doing.step if doing is not None else None,
        done=doing.done if doing is not None else 0,
        size=doing.size if doing is not None else 0,
    )


def _detail(entry: CatalogueEntry, room: "CatalogueRoom") -> ReleaseDetail:
    return ReleaseDetail(
        **_shown(entry, room),
        system=entry.system,
        template=entry.template,
        parameters=entry.parameters,
        load_options=entry.load_options,
        modelfile=entry.modelfile_text,
    )

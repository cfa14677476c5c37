"""The admin API of the pool's nodes."""

import contextlib
import re
import socket
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from deployment.access import AdminRoute, Authenticator, Needs, Permission, Principal, Recorder
from deployment.engines import EnginePool, NodeSpec, NodeState, NodeView
from deployment.ollama_connection import is_link_local
from deployment.settings import shown_url
from deployment.texts import PlainLine

_DRAIN_LIMIT_S = 3600.0
_NAME = r"^[a-z0-9][a-z0-9.-]{0,62}$"
_URL = r"^https?://([A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?$"
_Label = Annotated[PlainLine, Field(max_length=64)]


def _node_name(name: str) -> str:
    if not re.fullmatch(_NAME, name):
        raise ValueError("write up to 63 lower-case letters, digits, dots and hyphens, such as gpu-1")
    return name


def _engine_url(url: str) -> str:
    """Clouds keep their machines' credentials at link-local addresses; no engine is there."""
    if not re.fullmatch(_URL, url):
        raise ValueError("write http://HOST:PORT, without a path, a user or a password")
    parts = urlsplit(url)
    if parts.port == 0:  # raises ValueError itself above 65535
        raise ValueError("port 0 is none")
    host = parts.hostname or ""
    with contextlib.suppress(OSError):
        host = socket.inet_ntoa(socket.inet_aton(host))  # 2852039166 and 0xA9FEA9FE are addresses too
    if is_link_local(host):  # where a name leads is looked at when it is asked
        raise ValueError("a link-local address is no engine's")
    return url


class NodeIn(BaseModel):
    """A node to take into the pool."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, AfterValidator(_node_name)] = Field(examples=["gpu-1"], json_schema_extra={"pattern": _NAME})
    url: Annotated[str, AfterValidator(_engine_url)] = Field(
        max_length=300, examples=["http://10.0.0.5:11434"], json_schema_extra={"pattern": _URL}
    )
    slots: int = Field(ge=1, le=256, description="Its OLLAMA_NUM_PARALLEL.")
    weight: float = Field(1.0, gt=0, le=1000, allow_inf_nan=False, description="Its share, in the policy weighted.")
    labels: dict[_Label, _Label] = Field({}, max_length=32, examples=[{"region": "eu", "hardware": "a100"}])


class DrainIn(BaseModel):
    """Whether a node is drained."""

    model_config = ConfigDict(extra="forbid")

    draining: bool = Field(True, description="false takes a drain back.")
    wait_seconds: float = Field(
        0.0, ge=0, le=_DRAIN_LIMIT_S, allow_inf_nan=False, description="How long to wait until nothing is in flight."
    )


class ReleaseOut(BaseModel):
    """One release on a node. Times in seconds."""

    release: str
    in_flight: int
    present: bool | None
    loaded: bool
    expected_ttft_s: float | None
    service_s: float | None
    load_s: float | None


class NodeOut(BaseModel):
    """A node as it is now."""

    name: str
    url: str
    state: str = Field(description="unknown, healthy, unhealthy, open (taken out by its breaker) or draining.")
    slots: int
    share: int = Field(description="Slots that this gateway may use now.")
    weight: float
    labels: dict[str, str]
    source: str = Field(description="settings, dns or admin: who added it.")
    in_flight: int
    version: str | None
    checked_at: datetime | None
    problem: str | None
    retry_in_s: float | None
    loaded_bytes: int = Field(description="Memory that its loaded models take, as it says.")
    releases: list[ReleaseOut]


class NodeList(BaseModel):
    """The nodes."""

    nodes: list[NodeOut]


def node_routes(pool: EnginePool, authenticator: Authenticator, recorder: Recorder) -> APIRouter:
    """`/admin/nodes`. What is changed here outlives a restart, and is recorded after it was done."""
    router = APIRouter(prefix="/admin/nodes", tags=["nodes"], route_class=AdminRoute)
    read = Depends(Needs(Permission.NODES_READ, authenticator))
    writer = Annotated[Principal, Depends(Needs(Permission.NODES_WRITE, authenticator))]

    @router.get("", dependencies=[read], summary="List the nodes")
    async def listed() -> NodeList:
        """Every node, with what is known of it."""
        return NodeList(nodes=[_out(view) for view in pool.view()])

    @router.get("/{name}", dependencies=[read], summary="Show a node")
    async def shown(name: str) -> NodeOut:
        """One node. 404 where there is none of that name."""
        return _out(pool.show(name))

    @router.post("", status_code=201, summary="Add a node")
    async def add(caller: writer, body: NodeIn) -> NodeOut:
        """It takes work once its first check went well."""
        spec = NodeSpec(body.name, body.url.rstrip("/"), body.slots, body.weight, dict(body.labels), "admin")
        view = await pool.add(spec)
        await recorder.record(caller, "node.add", body.name, after=_told(view))
        return _out(view)

    @router.post("/{name}/drain", summary="Drain a node")
    async def drain(caller: writer, name: str, body: DrainIn) -> NodeOut:
        """It takes no new work, and its streams go on to their end. Waits as long as it is told to."""
        before = pool.show(name).state is NodeState.DRAINING
        view = await pool.drain(name, draining=body.draining)
        facts = {"before": {"draining": before}, "after": {"draining": body.draining}}
        await recorder.record(caller, "node.drain", name, **facts)
        if body.draining and body.wait_seconds:
            await pool.drained(name, body.wait_seconds)
            view = pool.show(name)
        return _out(view)

    @router.delete("/{name}", status_code=204, summary="Remove a node")
    async def remove(caller: writer, name: str) -> None:
        """Takes it out at once; what runs on it is cut, so drain it first."""
        before = pool.show(name)
        await pool.remove(name)
        await recorder.record(caller, "node.remove", name, before=_told(before))

    return router


def _told(view: NodeView) -> dict[str, Any]:
    """For the record."""
    told = {name: getattr(view, name) for name in ("slots", "weight", "labels", "source")}
    return {"url": shown_url(view.url), **told}


def _out(view: NodeView) -> NodeOut:
    return NodeOut.model_validate(asdict(view) | {"url": shown_url(view.url)})

"""Whether this process lives, takes work, and can answer."""

from collections.abc import Callable, Iterable
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from deployment.access import Permission, needs, public
from deployment.engines import NodeState, NodeView
from deployment.gateway.routes import Json
from deployment.gateway.service import Gateway
from deployment.releases import Split

_SERVING = frozenset({NodeState.UNKNOWN, NodeState.HEALTHY})


def health_of(
    nodes: list[NodeView], table: dict[str, str], default: str, problem: str | None, degraded: list[str]
) -> dict[str, Any]:
    """The state of each part with its reason.

    `problem` is what stops the engine or the model from coming up; `degraded` what the gateway does without now
    (its database, its Redis), which does not keep it from answering.
    """
    up = [node for node in nodes if node.state is NodeState.HEALTHY]
    release = table.get(default)
    engine: dict[str, Any] = {"ok": bool(up), "nodes": len(nodes), "healthy": len(up)}
    if not up:
        engine["reason"] = (
            problem or "; ".join(f"{n.name}: {n.problem or n.state}" for n in nodes) or "There is no node."
        )
    holds = [node for node in up if any(r.release == release and r.present for r in node.releases)]
    model: dict[str, Any] = {"ok": bool(holds), "model": default, "release": release}
    if not release:
        model["reason"] = problem or f"No release of {default} is deployed yet."
    elif not holds:
        model["reason"] = f"No healthy node holds {release} and answers for it."
    ok = engine["ok"] and model["ok"]
    told = {"status": "ok" if ok else "unavailable", "engine": engine, "model": model}
    return told | {"degraded": degraded} if degraded else told


def takes_work(nodes: list[NodeView], splits: Iterable[Split]) -> bool:
    """Whether a node that serves holds a release with traffic, as far as is known."""
    releases = {release for split in splits for release in split.callable}
    return any(
        node.state in _SERVING and any(each.release in releases and each.present is not False for each in node.releases)
        for node in nodes
    )


def health_routes(gateway: Gateway, problem: Callable[[], str | None], degraded: Callable[[], list[str]]) -> APIRouter:
    """`/`, `/health`, `/health/live`, `/health/ready`, `/metrics`."""
    router = APIRouter(tags=["Operations"])

    @router.get(
        "/health",
        summary="Can it answer?",
        response_class=Json,
        responses={503: {"description": "It cannot"}},
        **public(),
    )
    async def health() -> Response:
        """Engine reachable, model present and answering; 200, or 503 with the reason of each part."""
        parts = health_of(
            gateway.pool.view(), dict(gateway.traffic.table), gateway.settings.model.name, problem(), degraded()
        )
        return Json(parts, status_code=200 if parts["status"] == "ok" else 503)

    @router.get("/health/live", summary="Does the process live?", response_class=Json, **public())
    async def live() -> Response:
        """200 as long as the process can answer at all."""
        return Json({"status": "alive"})

    @router.get(
        "/health/ready",
        summary="Does it take work?",
        response_class=Json,
        responses={503: {"description": "It does not"}},
        **public(),
    )
    async def ready() -> Response:
        """For load balancers: 503 while it stops, or while no node can take work."""
        if gateway.drain.noticed:
            return Json({"status": "draining", "reason": "The server is stopping."}, status_code=503)
        if not takes_work(gateway.pool.view(), gateway.traffic.splits):
            return Json({"status": "starting", "reason": problem() or "No engine can answer yet."}, status_code=503)
        return Json({"status": "ready"})

    @router.get(
        "/metrics", summary="Prometheus metrics", response_class=PlainTextResponse, **needs(Permission.METRICS_READ)
    )
    async def metrics(request: Request) -> Response:
        """Needs the permission metrics:read, which the roles viewer, operator and admin have."""
        gateway.caller(request, Permission.METRICS_READ)
        return Response(gateway.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False, **public())
    async def root() -> Response:
        return PlainTextResponse("Ollama is running")  # what Ollama's clients look for

    return router

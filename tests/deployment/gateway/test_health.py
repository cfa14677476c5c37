"""What health says: pure, a row a state; and on the wire."""

from typing import Any

import pytest
from tests.deployment.gateway.conftest import Gate

from deployment.engines import NodeState, NodeView, ReleaseView
from deployment.gateway.health import health_of

MODEL, RELEASE = "m", "m:v1"


def node(state: NodeState, release: str = RELEASE, problem: str | None = None, present: bool = True) -> NodeView:
    held = ReleaseView(release, 0, present, True, None, None, None)
    return NodeView(
        "n1", "http://n1", state, 1, 1, 1.0, {}, "settings", 0, "0.33.0", None, problem, None, (held,)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "table", "problem", "engine_ok", "model_ok", "reason"),
    [
        ([node(NodeState.HEALTHY)], {MODEL: RELEASE}, None, True, True, None),
        ([node(NodeState.UNHEALTHY, problem="it hangs")], {MODEL: RELEASE}, None, False, False, "n1: it hangs"),
        ([node(NodeState.HEALTHY), node(NodeState.OPEN)], {MODEL: RELEASE}, None, True, True, None),
        ([node(NodeState.HEALTHY, "m:v0")], {MODEL: RELEASE}, None, True, False, "m:v1"),
        ([node(NodeState.HEALTHY, present=False)], {MODEL: RELEASE}, None, True, False, "m:v1"),
        ([node(NodeState.HEALTHY)], {}, "The Modelfile is gone.", True, False, "The Modelfile is gone."),
        ([], {}, "The engine is starting.", False, False, "The engine is starting."),
        ([], {}, None, False, False, "There is no node."),
    ],
)
def test_each_part_has_its_state_and_reason(
    nodes: list[NodeView], table: dict[str, str], problem: str | None, engine_ok: bool, model_ok: bool, reason: Any
) -> None:
    told = health_of(nodes, table, MODEL, problem, [])
    assert (told["engine"]["ok"], told["model"]["ok"]) == (engine_ok, model_ok)
    assert told["status"] == ("ok" if engine_ok and model_ok else "unavailable")
    if reason:
        assert reason in (told["engine"].get("reason") or "") + (told["model"].get("reason") or "")
    assert "degraded" not in told


def test_what_is_done_without_is_told_and_does_not_make_it_unavailable() -> None:
    told = health_of([node(NodeState.HEALTHY)], {MODEL: RELEASE}, MODEL, None, ["Redis is away."])
    assert (told["status"], told["degraded"]) == ("ok", ["Redis is away."])


async def test_readiness_follows_the_drain(gate: Gate) -> None:
    assert (await gate.http.get("/health/ready")).status_code == 200
    gate.services.gateway.drain.noticed = True
    assert (await gate.http.get("/health/ready")).status_code == 503
    assert (await gate.http.get("/health/live")).status_code == 200
    assert (await gate.http.post("/generate", json={"prompt": "x"})).status_code == 200, "still taken, while noticed"
    gate.services.gateway.drain.refusing = True
    refused = await gate.http.post("/generate", json={"prompt": "x"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    assert refused.headers["retry-after"] == "1"

"""What health says: pure, a row a state; and on the wire."""

import asyncio
from typing import Any

import pytest
from tests.deployment.gateway.conftest import Gate
from tests.deployment.gateway.test_callers import gate_before
from tests.support.fake_node import FakeNode
from tests.support.redis_server import redis_server

from deployment.engines import NodeState, NodeView, ReleaseView
from deployment.gateway.health import health_of, takes_work
from deployment.releases import Split
from deployment.releases.traffic import Share, single

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


_MOVED = Split(MODEL, (Share("m:v0", 0.0), Share(RELEASE, 1.0)))


@pytest.mark.parametrize(
    ("nodes", "splits", "takes"),
    [
        ([node(NodeState.HEALTHY)], [single(MODEL, RELEASE)], True),
        ([node(NodeState.UNKNOWN)], [single(MODEL, RELEASE)], True),
        ([node(NodeState.DRAINING)], [single(MODEL, RELEASE)], False),
        ([node(NodeState.OPEN), node(NodeState.HEALTHY)], [single(MODEL, RELEASE)], True),
        ([node(NodeState.HEALTHY)], [], False),
        ([], [single(MODEL, RELEASE)], False),
        ([node(NodeState.HEALTHY, present=False)], [single(MODEL, RELEASE)], False),
        ([node(NodeState.HEALTHY, "m:v0")], [_MOVED], False),  # warm is not enough
        ([node(NodeState.HEALTHY)], [_MOVED], True),
    ],
)
def test_work_is_taken_once_a_node_holds_a_release_with_traffic(
    nodes: list[NodeView], splits: list[Split], takes: bool
) -> None:
    assert takes_work(nodes, splits) is takes


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


async def test_a_redis_that_is_away_is_told_in_health() -> None:
    question = {"prompt": "Hello", "temperature": 0}
    async with FakeNode() as node:
        with redis_server() as server:
            async with gate_before(node, cache={"redis_url": server.url}) as gate:
                assert (await gate.http.post("/generate", json=question)).status_code == 200
                server.kill()
                assert (await gate.http.post("/generate", json=question)).status_code == 200
                health = (await gate.http.get("/health")).json()
                assert (health["status"], "cache" in health["degraded"][0]) == ("ok", True)
        with redis_server() as server:
            async with gate_before(node, pool={"redis_url": server.url, "lease_seconds": 1}) as gate:
                assert "degraded" not in (await gate.http.get("/health")).json()
                server.kill()
                for _ in range(100):
                    health = (await gate.http.get("/health")).json()
                    if "degraded" in health:
                        break
                    await asyncio.sleep(0.05)
                assert (health["status"], "Redis" in health["degraded"][0]) == ("ok", True)
                assert (await gate.http.post("/generate", json={"prompt": "Hello"})).status_code == 200

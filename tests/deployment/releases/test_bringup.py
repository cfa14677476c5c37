"""The release comes onto every node: at the start, onto late ones, and again where it was lost."""

import asyncio
from pathlib import Path

import httpx
import pytest
from tests.support.fake_node import FakeNode
from tests.support.serving import serving
from tests.support.stack import ROOT

from deployment.engines import NodeState, NodeView, ReleaseView
from deployment.releases import bringup
from deployment.releases.bringup import lacks_a_release

RELEASE = "ramsey-model:v1.1"
MODEL = {"modelfile": str(ROOT / "models/ollama/Modelfile"), "release": None}


@pytest.mark.parametrize(
    ("version", "held", "lacks"),
    [
        ("0.33.0", {RELEASE: True}, False),
        ("0.33.0", {RELEASE: False}, True),
        ("0.33.0", {}, True),
        ("0.33.0", {"ramsey-model:v1.0": True}, True),
        (None, {}, False),
    ],
)
def test_who_needs_the_release(version: str | None, held: dict[str, bool], lacks: bool) -> None:
    releases = tuple(ReleaseView(name, 0, present, False, None, None, None) for name, present in held.items())
    node = NodeView(
        "n", "http://n", NodeState.HEALTHY, 1, 1, 1.0, {}, "settings", 0, version, None, None, None, releases
    )  # fmt: skip
    assert lacks_a_release(node, [RELEASE]) is lacks


async def holds(node: FakeNode) -> None:
    """Until the node holds the release."""
    async with asyncio.timeout(20):
        while RELEASE not in node.store.models:
            await asyncio.sleep(0.02)


async def test_late_and_emptied_nodes_get_the_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bringup, "_MEND_S", 0.1)
    pool = {"health_interval": 0.2}
    async with (
        FakeNode(models=()) as first,
        FakeNode(models=()) as late,
        serving(first.url, model=MODEL, pool=pool, data_dir=str(tmp_path)) as (url, services),
        httpx.AsyncClient(base_url=url) as http,
    ):
        await holds(first)
        assert services.traffic.table == {"ramsey-model": RELEASE}
        await http.post("/admin/nodes", json={"name": "late", "url": late.url, "slots": 1})
        await holds(late)
        del first.store.models[RELEASE]
        await holds(first)
        answer = await http.post("/generate", json={"prompt": "Hello"}, timeout=20)
        assert answer.status_code == 200


async def test_before_there_is_traffic_the_answer_is_503_so_that_another_gateway_is_asked(tmp_path: Path) -> None:
    async with FakeNode() as node, serving(node.url, data_dir=str(tmp_path)) as (url, services):
        services.traffic.swap([], services.traffic.version)
        async with httpx.AsyncClient(base_url=url) as http:
            answer = await http.post("/generate", json={"prompt": "Hello"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
        assert answer.headers["retry-after"] == "1"


async def test_traffic_that_somebody_set_outlives_a_restart_and_wins_over_the_settings(tmp_path: Path) -> None:
    old = "ramsey-model:v1.0"
    async with FakeNode(models=(old,)) as node:
        async with serving(node.url, model=MODEL, data_dir=str(tmp_path)) as (url, services):
            await holds(node)
            assert services.traffic.table == {"ramsey-model": RELEASE}
            async with httpx.AsyncClient(base_url=url) as http:
                version = services.traffic.split("ramsey-model").version  # type: ignore[union-attr]
                body = {"version": version, "shares": [{"release": old, "weight": 1}], "reason": "v1.1 is odd"}
                assert (await http.put("/admin/traffic/ramsey-model", json=body)).status_code == 200
        del node.store.models[RELEASE]
        async with (
            serving(node.url, model=MODEL, data_dir=str(tmp_path)) as (url, services),
            httpx.AsyncClient(base_url=url) as http,
        ):
            async with asyncio.timeout(20):
                while services.bring_up.problem is not None:
                    await asyncio.sleep(0.02)
            answer = await http.post("/generate", json={"prompt": "Hello"}, timeout=20)
            assert answer.headers["x-ramsey-release"] == old
            assert RELEASE not in node.store.models  # nobody asked for it
            split = services.traffic.split("ramsey-model")
            assert split is not None
            assert (split.set_by, split.reason) == ("anonymous", "v1.1 is odd")

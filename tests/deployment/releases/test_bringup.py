"""The release comes onto every node: at the start, onto late ones, and again where it was lost."""

import asyncio
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from tests.support.fake_node import FakeNode
from tests.support.serving import serving
from tests.support.stack import ROOT

from deployment.access import LOCAL_OPERATOR
from deployment.engines import NodeState, NodeView, ReleaseView
from deployment.ollama_client import Timeouts
from deployment.releases import bringup
from deployment.releases.bringup import lacks_a_release
from deployment.releases.catalogue import Wish
from deployment.releases.traffic import Share

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


async def test_a_late_node_gets_all_that_has_traffic_or_is_kept_warm_before_it_takes_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bringup, "_MEND_S", 0.1)
    async with (
        FakeNode(models=(), slots=1) as first,
        FakeNode(models=(), slots=4) as late,
        serving(first.url, model=MODEL, pool={"health_interval": 0.2}, data_dir=str(tmp_path)) as (url, services),
        httpx.AsyncClient(base_url=url, timeout=20) as http,
    ):
        catalogue, sync = services.releases.catalogue, services.traffic_room
        old = await catalogue.create(
            ROOT / "models/ollama/Modelfile.v1.0", Wish("ramsey-model", "v1.0"), LOCAL_OPERATOR
        )
        assert (await services.releases.place(old.name, services.pool.view()))["engine"].ok
        before = await sync.service.get("ramsey-model")
        warm = replace(before, shares=(*before.shares, Share(old.name, 0.0)))
        await sync.service.set(warm, LOCAL_OPERATOR)
        late.fail("hang", path="/api/create", times=1)  # it stays without for a while
        await http.post("/admin/nodes", json={"name": "late", "url": late.url, "slots": 4})
        async with asyncio.timeout(60):
            while not late.requests["/api/create"]:
                await asyncio.sleep(0.01)
            answers = await asyncio.gather(*(http.post("/generate", json={"prompt": f"{n}?"}) for n in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert late.requests["/api/generate"] + late.requests["/api/chat"] == 0
        await services.releases.distribution.close()  # as after a restart: what hung is begun anew
        async with asyncio.timeout(60):
            while {RELEASE, old.name} - set(late.store.models):
                await asyncio.sleep(0.02)
            while late.requests["/api/generate"] + late.requests["/api/chat"] < 3:
                answers = await asyncio.gather(*(http.post("/generate", json={"prompt": f"{n}!"}) for n in range(8)))
                assert {answer.status_code for answer in answers} == {200}


async def test_a_release_comes_only_onto_the_nodes_with_its_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bringup, "_MEND_S", 0.1)
    async with FakeNode(models=()) as blue, FakeNode(models=()) as green:
        nodes = [
            {"name": "blue", "url": blue.url, "labels": {"colour": "blue"}},
            {"name": "green", "url": green.url, "labels": {"colour": "green"}},
        ]
        pool = {"health_interval": 0.2, "nodes": nodes}
        async with serving(blue.url, model=MODEL, pool=pool, data_dir=str(tmp_path)) as (_, services):
            room, service = services.releases, services.traffic_room.service
            path = ROOT / "models/ollama/Modelfile.v1.0"
            old = await room.catalogue.create(path, Wish("ramsey-model", "v1.0"), LOCAL_OPERATOR)
            before = await service.get("ramsey-model")
            await service.set(
                replace(before, shares=(*before.shares, Share(old.name, 0.0, {"colour": "green"}))), LOCAL_OPERATOR
            )
            async with asyncio.timeout(20):
                while old.name not in green.store.models:
                    await asyncio.sleep(0.02)
            assert old.name not in blue.store.models


async def test_a_release_comes_onto_nodes_also_where_the_state_lies_in_a_relative_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with (
        FakeNode(models=()) as node,
        serving(node.url, model=MODEL, data_dir=".ramsey") as (_, services),
    ):
        room, path = services.releases, ROOT / "models/ollama/Modelfile.v1.0"
        made = await room.catalogue.create(path, Wish("ramsey-model", "v1.0"), LOCAL_OPERATOR)
        report = (await room.place(made.name, services.pool.view()))["engine"]
        assert report.ok, report.problem
        assert made.name in node.store.models


async def test_the_settings_modelfile_becomes_a_release_and_old_ones_leave_the_nodes(tmp_path: Path) -> None:
    async with FakeNode(models=()) as node:
        settings = {"model": MODEL, "data_dir": str(tmp_path), "releases": {"keep": 1}}
        older = MODEL | {"modelfile": str(ROOT / "models/ollama/Modelfile.v1.0")}
        async with serving(node.url, **settings | {"model": older}) as (_, services):
            assert services.traffic.table == {"ramsey-model": "ramsey-model:v1.0"}
        async with serving(node.url, **settings) as (_, services):
            async with asyncio.timeout(20):
                while "ramsey-model:v1.0" in node.store.models:
                    await asyncio.sleep(0.02)
            assert services.traffic.table == {"ramsey-model": RELEASE}
            async with asyncio.timeout(20):
                while (entries := await services.releases.catalogue.list())[1].pruned_at is None:
                    await asyncio.sleep(0.02)
            new, old = entries
            assert (new.name, new.created_by, new.pruned_at) == (RELEASE, "settings", None)
            assert old.pruned_at is not None
            assert new.digest == node.store.models[RELEASE].digest


async def test_a_folder_that_cannot_be_written_keeps_nobody_from_serving(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    async with (
        FakeNode(models=()) as node,
        serving(node.url, model=MODEL, data_dir=str(tmp_path), releases={"folder": str(tmp_path / "file" / "x")}) as (
            _,
            services,
        ),
    ):
        assert services.traffic.table == {"ramsey-model": RELEASE}
        assert RELEASE in node.store.models
        assert await services.releases.catalogue.list() == []


async def test_a_node_that_hangs_keeps_no_other_from_serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bringup, "LOOK", Timeouts(total=0.3))
    async with FakeNode() as hung, FakeNode() as well:
        hung.fail("hang", path="/api")
        nodes = [{"name": "hung", "url": hung.url}, {"name": "well", "url": well.url}]
        async with (
            serving(well.url, pool={"nodes": nodes}, data_dir=str(tmp_path)) as (url, services),
            httpx.AsyncClient(base_url=url) as http,
        ):
            assert services.traffic.table == {"ramsey-model": RELEASE}
            assert (await http.post("/generate", json={"prompt": "Hello"}, timeout=20)).status_code == 200


async def test_before_there_is_traffic_the_answer_is_503_so_that_another_gateway_is_asked(tmp_path: Path) -> None:
    async with FakeNode() as node, serving(node.url, data_dir=str(tmp_path)) as (url, services):
        async with asyncio.timeout(20):
            while services.bring_up.problem is not None:  # else it writes the table once more
                await asyncio.sleep(0.01)
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

"""Nodes administered over HTTP and by `ramsey nodes`, before real (fake) nodes."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.deployment.gateway.test_callers import gate_before
from tests.support.fake_node import FakeNode
from tests.support.stack import clean_environment

from deployment.access import generate_key


async def state_of(gate: Any, name: str, wanted: str) -> dict[str, Any]:
    """The node, once its state is `wanted`."""
    for _ in range(200):
        node: dict[str, Any] = (await gate.http.get(f"/admin/nodes/{name}")).json()
        if node.get("state") == wanted:
            return node
        await asyncio.sleep(0.02)
    raise AssertionError(f"{name} is {node}, not {wanted}")


async def test_a_node_comes_serves_is_drained_and_goes(tmp_path: Path) -> None:
    async with FakeNode() as first, FakeNode() as second, gate_before(first, data_dir=str(tmp_path)) as gate:
        body = {"name": "second", "url": second.url, "slots": 4, "labels": {"region": "eu"}}
        added = await gate.http.post("/admin/nodes", json=body)
        assert added.status_code == 201
        assert (added.json()["source"], added.json()["labels"]) == ("admin", {"region": "eu"})
        await state_of(gate, "second", "healthy")
        await gate.http.post("/admin/nodes/engine/drain", json={})
        answer = await gate.http.post("/generate", json={"prompt": "Hello"})
        assert answer.headers["x-ramsey-node"] == "second"
        await gate.http.post("/admin/nodes/engine/drain", json={"draining": False})
        assert (await gate.http.delete("/admin/nodes/second")).status_code == 204
        assert (await gate.http.get("/admin/nodes/second")).status_code == 404
        names = [node["name"] for node in (await gate.http.get("/admin/nodes")).json()["nodes"]]
        assert names == ["engine"]


async def test_a_drain_waits_for_the_streams_that_run(tmp_path: Path) -> None:
    async with FakeNode(token_delay_s=0.03) as node, gate_before(node, data_dir=str(tmp_path)) as gate:
        running = asyncio.create_task(gate.http.post("/generate", json={"prompt": "Hello", "stream": True}))
        while not node.stats()["in_flight"]:
            await asyncio.sleep(0.005)
        drained = await gate.http.post("/admin/nodes/engine/drain", json={"wait_seconds": 10})
        assert drained.json()["in_flight"] == 0
        assert '"done":true' in (await running).text


async def test_what_was_added_outlives_a_restart(tmp_path: Path) -> None:
    async with FakeNode() as first, FakeNode() as second:
        async with gate_before(first, data_dir=str(tmp_path)) as gate:
            await gate.http.post("/admin/nodes", json={"name": "second", "url": second.url, "slots": 2})
            await gate.http.post("/admin/nodes/engine/drain", json={})
        async with gate_before(first, data_dir=str(tmp_path)) as gate:
            nodes = {node["name"]: node for node in (await gate.http.get("/admin/nodes")).json()["nodes"]}
            assert nodes["second"]["slots"] == 2
            assert nodes["engine"]["state"] == "draining"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"url": "http://x:1", "slots": 1}, "name"),
        ({"name": "UPPER", "url": "http://x:1", "slots": 1}, "name: write up to 63 lower-case letters"),
        ({"name": "x", "url": "ftp://x", "slots": 1}, "url: write http://HOST:PORT"),
        ({"name": "x", "url": "10.0.0.5:11434", "slots": 1}, "url: write http://HOST:PORT"),
        ({"name": "x", "url": "http://x:1/api", "slots": 1}, "url: write http://HOST:PORT"),
        ({"name": "x", "url": "http://user:secret@x", "slots": 1}, "url: write http://HOST:PORT"),
        (None, "body: Field required"),
        ({"name": "x", "url": "http://x:1", "slots": 0}, "slots"),
        ({"name": "x", "url": "http://x:1", "slots": 1, "colour": "red"}, "colour"),
        ({"name": "engine", "url": "http://x:1", "slots": 1}, "engine"),
    ],
)
async def test_a_wrong_node_is_refused_by_name(tmp_path: Path, body: dict[str, Any] | None, named: str) -> None:
    async with FakeNode() as node, gate_before(node, data_dir=str(tmp_path)) as gate:
        answer = await gate.http.post("/admin/nodes", json=body)
        assert answer.status_code == 400
        assert named in answer.json()["error"]["message"]


async def test_one_wrong_node_does_not_keep_the_others_from_serving(tmp_path: Path) -> None:
    async with FakeNode() as node:
        async with gate_before(node, data_dir=str(tmp_path)) as gate:
            body = {"name": "second", "url": "http://127.0.0.1:1", "slots": 1}
            assert (await gate.http.post("/admin/nodes", json=body)).status_code == 201
        written = tmp_path / "nodes.json"
        written.write_text(written.read_text().replace("http://127.0.0.1:1", "http://:::"))
        async with gate_before(node, data_dir=str(tmp_path)) as gate:
            assert (await gate.http.post("/generate", json={"prompt": "Hello"})).status_code == 200


async def test_a_user_s_key_may_not_see_or_change_nodes(tmp_path: Path) -> None:
    key = generate_key()
    access = {"keys": [{"name": "app", "sha256": key.sha256}]}
    async with FakeNode() as node, gate_before(node, access=access, data_dir=str(tmp_path)) as gate:
        headers = {"Authorization": f"Bearer {key.key}"}
        assert (await gate.http.get("/admin/nodes", headers=headers)).status_code == 403
        assert (await gate.http.delete("/admin/nodes/engine", headers=headers)).status_code == 403
        assert (await gate.http.get("/metrics", headers=headers)).status_code == 403
        assert (await gate.http.post("/generate", json={"prompt": "x"}, headers=headers)).status_code == 200


async def test_the_command_line_does_the_same(tmp_path: Path) -> None:
    async with FakeNode() as first, FakeNode() as second, gate_before(first, data_dir=str(tmp_path)) as gate:

        async def ramsey(*words: str, status: int = 0) -> str:
            done = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-m", "deployment", "nodes", *words, "--url", gate.url],
                env=clean_environment(),
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == status, done.stderr
            return done.stdout + done.stderr

        assert "Added second" in await ramsey("add", "second", second.url, "--slots", "3", "--label", "region=eu")
        await state_of(gate, "second", "healthy")
        assert "healthy" in await ramsey("list")
        assert json.loads(await ramsey("show", "second", "--json"))["labels"] == {"region": "eu"}
        assert "region=eu" in await ramsey("show", "second")
        assert "nothing runs on it" in await ramsey("drain", "second")
        assert "takes work again" in await ramsey("drain", "second", "--undo")
        assert "Removed second" in await ramsey("remove", "second")
        assert "There is no node second" in await ramsey("remove", "second", status=1)

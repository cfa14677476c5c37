"""What people, machines and documents are told of rollouts."""

import asyncio
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.deployment.releases.rollout.conftest import Site, site
from tests.support.stack import ROOT

from deployment.cli.rollout_view import follow, line, screen
from deployment.releases.rollout.model import Phase
from deployment.releases.rollout.plan_docs import table


@asynccontextmanager
async def hooks(status: int = 200) -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """Somebody else's server, and what it was told."""
    told: list[dict[str, Any]] = []

    async def take(request: web.Request) -> web.Response:
        told.append(await request.json())
        return web.Response(status=status)

    app = web.Application()
    app.router.add_post("/services/{secret}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    where = web.TCPSite(runner, "127.0.0.1", 0)
    await where.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/services/s3cret", told
    finally:
        await runner.cleanup()


async def test_webhooks_are_told_in_their_shape_and_a_broken_one_holds_nothing_up() -> None:
    async with (
        hooks() as (url, told),
        hooks(500) as (broken, refused),
        site(releases={"webhook_hosts": ["127.0.0.1"]}) as two_nodes,
    ):
        shapes = [{"url": url}, {"url": url, "shape": "slack"}, {"url": broken}]
        await two_nodes.deploy(strategy="blue-green", webhooks=shapes)
        shown = await two_nodes.phase(Phase.BAKE)
        assert "s3cret" not in json.dumps(shown)
        async with asyncio.timeout(20):
            while not any("promoted" in str(each) for each in told):
                await asyncio.sleep(0.02)
    plain = [each for each in told if "event" in each]
    assert [each["event"] for each in plain][:2] == ["rollout.started", "rollout.gates"]
    assert plain[0]["to"] == "ramsey-model:v1.2"
    assert any("ramsey-model:v1.1 → ramsey-model:v1.2" in each["text"] for each in told if "event" not in each)
    assert refused


async def test_a_webhook_may_call_no_host_that_the_settings_do_not_allow(two_nodes: Site) -> None:
    plan = {"webhooks": [{"url": "http://169.254.169.254/latest"}]}
    answer = await two_nodes.http.post("/admin/rollouts", json={"release": "v1.2", "plan": plan})
    assert answer.status_code == 400
    assert "releases.webhook_hosts" in answer.json()["error"]["hint"]


async def test_the_report_tells_the_story_with_plots(two_nodes: Site) -> None:
    steps = [{"weight": "50%", "min_time": "1s"}, {"weight": "100%", "min_time": "1s"}]
    await two_nodes.deploy(steps=steps, keep_warm=0)
    while (await two_nodes.now())["phase"] != Phase.DONE:
        await two_nodes.ask()
    shown = await two_nodes.now()
    assert shown["candidate"]["requests"] > 0
    assert shown["harmed"] == 0
    told = (await two_nodes.http.get(f"/admin/rollouts/{shown['id']}/report")).text
    for words in ("# ramsey-model: ramsey-model:v1.1 → ramsey-model:v1.2", "Requests harmed: **0**"):
        assert words in told
    plots = re.findall(r"<svg.*?</svg>", told)
    assert len(plots) == 3
    for plot in plots:
        ET.fromstring(plot)


async def test_what_callers_vote_is_judged(two_nodes: Site) -> None:
    await two_nodes.deploy(steps=[{"weight": "50%", "min_time": "1h"}, 1])
    await two_nodes.until(lambda shown: shown["weight"] == 0.5)
    for _ in range(200):
        answer = await two_nodes.http.post("/generate", json={"prompt": "Hello", "temperature": 1})
        good = answer.json()["release"] == "ramsey-model:v1.1"
        vote = {"request_id": answer.headers["x-request-id"], "score": "up" if good else "down"}
        assert (await two_nodes.http.post("/feedback", json=vote)).status_code < 300
        if (await two_nodes.now())["phase"] == Phase.ROLLED_BACK:
            break
    shown = await two_nodes.phase(Phase.ROLLED_BACK)
    assert "answers score 0.00" in shown["reason"]


async def test_prometheus_and_the_terminal_show_it(two_nodes: Site, capsys: pytest.CaptureFixture[str]) -> None:
    await two_nodes.deploy(min_requests=1000)
    await two_nodes.until(lambda shown: shown["weight"] == 0.05)
    await two_nodes.ask()
    before = await two_nodes.until(lambda shown: bool(shown["verdicts"]))
    async with asyncio.timeout(10):
        while 'ramsey_rollout_weight{model="ramsey-model"} 0.05' not in (await two_nodes.http.get("/metrics")).text:
            await asyncio.sleep(0.05)
    await two_nodes.say("abort", reason="enough")
    after = await two_nodes.now()
    metrics = (await two_nodes.http.get("/metrics")).text
    assert 'ramsey_rollouts_ended_total{model="ramsey-model",phase="aborted"} 1.0' in metrics

    from rich.console import Console

    console = Console(width=160, record=True)
    console.print(screen(before))
    painted = console.export_text()
    for words in ("▶ 5 %", "ramsey-model:v1.2", "Requests harmed: 0", "safe"):
        assert words in painted
    capsys.readouterr()
    assert follow([before, before, after], as_json=False, live=False) == after
    lines = capsys.readouterr().out.splitlines()
    assert lines == [line(before), line(after)]
    assert "aborted: Aborted by anonymous: enough." in lines[1]


def test_the_documents_list_every_key_of_a_plan() -> None:
    assert table() in (ROOT / "docs/rollouts.md").read_text(), (
        "write the table of `deployment.releases.rollout.plan_docs.table()` into docs/rollouts.md"
    )


def test_the_plan_in_the_documents_is_one(tmp_path: Path) -> None:
    from deployment.releases.rollout.plan import load, parse

    found = re.search(r"```toml\n(strategy = .*?)```", (ROOT / "docs/rollouts.md").read_text(), re.DOTALL)
    assert found is not None
    file = tmp_path / "rollout.toml"
    file.write_text(found[1])
    assert parse(load(file)).steps[1].weight == 0.25

"""Rollouts under real requests, decided by the judge."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from tests.deployment.releases.rollout.conftest import NEW, OLD, Site, site

from deployment.releases.rollout import judging
from deployment.releases.rollout.model import Phase

STEPS: dict[str, Any] = {"steps": ["25%", "50%", "100%"], "min_time": "500ms", "min_requests": 30, "keep_warm": "500ms"}


@asynccontextmanager
async def callers(site: Site) -> AsyncIterator[list[int]]:
    """Eight of them, streaming; the answers that broke off."""
    broken: list[int] = []

    async def call(number: int) -> None:
        while True:
            body = {"prompt": f"Hello {number:3}", "stream": True, "temperature": 1}
            async with site.http.stream("POST", "/generate", json=body) as answer:
                text = "".join([piece async for piece in answer.aiter_text()])
            if "event: error" in text:
                broken.append(number)
            await asyncio.sleep(0.005)

    tasks = [asyncio.create_task(call(number)) for number in range(8)]
    try:
        yield broken
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_healthy_release_gets_everything_by_evidence_alone(two_nodes: Site) -> None:
    async with callers(two_nodes):
        await two_nodes.deploy(**STEPS)
        shown = await two_nodes.until(lambda shown: shown["ended_at"] is not None, 60)
    assert shown["phase"] == Phase.DONE, shown["reason"]
    told = (await two_nodes.http.get(f"/admin/rollouts/{shown['id']}/events")).json()
    assert [event["kind"] for event in told] == ["started", "gates", "step", "step", "step", "promoted", "done"]
    assert "fail" not in {verdict["result"] for verdict in shown["verdicts"]}
    assert shown["candidate"]["requests"] >= 90
    assert await two_nodes.table() == {NEW: 1.0}


async def test_a_release_that_breaks_answers_off_goes_back_and_who_was_harmed_is_counted(two_nodes: Site) -> None:
    for node in two_nodes.nodes:
        node.fail("error", after=2, probability=0.5, model=NEW)
    async with callers(two_nodes) as broken:
        await two_nodes.deploy(**STEPS)
        shown = await two_nodes.until(lambda shown: shown["ended_at"] is not None, 60)
    assert shown["phase"] == Phase.ROLLED_BACK
    assert "fail" in shown["reason"]
    assert shown["weight"] == 0
    assert 3 <= shown["candidate"]["failed"] <= len(broken)
    assert shown["harmed"] >= shown["candidate"]["failed"]
    assert await two_nodes.table() == {OLD: 1.0}


@pytest.mark.parametrize(("memory_gb", "phase"), [("0.0075", Phase.ROLLED_BACK), ("0.01", Phase.DONE)])
async def test_a_node_whose_memory_both_releases_fill_takes_the_new_one_back(
    monkeypatch: pytest.MonkeyPatch, memory_gb: str, phase: Phase
) -> None:
    limits = judging.limits
    monkeypatch.setattr(judging, "limits", lambda plan: replace(limits(plan), memory_seconds=0.0))
    async with site(labels={"memory_gb": memory_gb}) as opened, callers(opened):
        await opened.deploy(**STEPS)
        shown = await opened.until(lambda shown: shown["ended_at"] is not None, 60)
    assert shown["phase"] == phase, shown["reason"]
    assert ("memory is 98% full" in shown["reason"]) is (phase is Phase.ROLLED_BACK)


async def test_without_requests_it_holds_at_the_deadline_and_tells_a_person(two_nodes: Site) -> None:
    await two_nodes.deploy(**STEPS | {"deadline": "1s"})
    shown = await two_nodes.until(lambda shown: shown["stop"] is not None)
    assert (shown["stop"], shown["weight"]) == ("inconclusive", 0.25)
    assert "ramsey rollout promote" in shown["reason"]

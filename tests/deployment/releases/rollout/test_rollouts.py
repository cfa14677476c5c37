"""Rollouts from wire to wire: the admin API, the controller, the traffic, the nodes."""

import asyncio

import pytest
from tests.deployment.releases.rollout.conftest import NEW, OLD, Site
from tests.support.fake_node import FakeModel

from deployment.access import LOCAL_OPERATOR
from deployment.releases.rollout.model import Phase
from deployment.releases.rollout.store import RolloutStore, Superseded


async def test_blue_green_moves_all_traffic_and_goes_back_at_once(two_nodes: Site) -> None:
    assert await two_nodes.ask() == OLD
    await two_nodes.deploy(strategy="blue-green")
    await two_nodes.phase(Phase.BAKE)
    assert await two_nodes.table() == {OLD: 0.0, NEW: 1.0}
    assert await two_nodes.ask() == NEW
    answer = await two_nodes.http.post("/admin/rollouts/rollback", json={"reason": "it rhymes"})
    assert answer.json()["phase"] == Phase.ROLLED_BACK
    assert await two_nodes.ask() == OLD, "this replica has it when the answer comes"
    told = (await two_nodes.http.get("/admin/rollouts/current/events")).json()
    assert [event["kind"] for event in told] == ["started", "gates", "step", "promoted", "rolled_back"]
    assert "it rhymes" in told[-1]["text"]
    acts = [entry.action for entry in await two_nodes.services.access.service.audit(LOCAL_OPERATOR, limit=10)]
    assert acts[:2] == ["rollout.rolled_back", "rollout.promoted"]


async def test_a_canary_is_promoted_by_hand_and_after_its_end_rolled_back_to_the_release_before(
    two_nodes: Site,
) -> None:
    await two_nodes.deploy(min_requests=1000)
    await two_nodes.until(lambda shown: shown["weight"] == 0.05)
    assert (await two_nodes.say("promote"))["weight"] == 0.25
    assert (await two_nodes.say("pause"))["stop"] == "paused"
    assert (await two_nodes.say("promote", full=True))["phase"] == Phase.BAKE
    assert (await two_nodes.say("promote"))["phase"] == Phase.DONE
    assert await two_nodes.table() == {NEW: 1.0}
    answer = await two_nodes.http.post("/admin/rollouts/rollback", json={})
    assert answer.json()["to_release"] == OLD
    await two_nodes.phase(Phase.DONE)
    assert await two_nodes.table() == {OLD: 1.0}


async def test_two_at_once_are_refused(two_nodes: Site) -> None:
    await two_nodes.deploy(min_requests=1000)
    answer = await two_nodes.http.post("/admin/rollouts", json={"release": "v1.2"})
    assert answer.status_code == 409
    assert "runs already" in answer.json()["error"]["message"]
    assert "abort" in answer.json()["error"]["hint"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"release": "v9"}, 404, "There is no release ramsey-model:v9"),
        ({"release": "v1.1"}, 409, "has all traffic already"),
        ({"release": "other:v1"}, 400, "no release of ramsey-model"),
        ({"release": "v1.2", "plan": {"stps": []}}, 400, "did you mean steps?"),
        ({"release": "v1.2", "plan": {"nodes": {"colour": "x" * 65}}}, 400, "nodes.colour"),
        ({"release": "v1.2", "note": "a\0b"}, 400, "note"),
        ({"release": "v1.2", "plan": {"freeze": {"windows": ["Mon 00:00 - Mon 00:00"]}}}, 409, "frozen"),
    ],
    ids=["unknown", "the same", "another model", "a wrong plan", "a long label", "a control character", "frozen"],
)
async def test_what_cannot_be_is_refused_and_the_traffic_stays(
    two_nodes: Site, body: dict[str, object], status: int, words: str
) -> None:
    answer = await two_nodes.http.post("/admin/rollouts", json=body)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]["message"]
    assert await two_nodes.table() == {OLD: 1.0}


async def test_a_lock_refuses_with_its_message_and_lets_things_go_back(two_nodes: Site) -> None:
    await two_nodes.deploy(strategy="blue-green")
    await two_nodes.phase(Phase.BAKE)
    assert (await two_nodes.http.put("/admin/rollouts/lock", json={"message": "exam week"})).status_code == 200
    refused = await two_nodes.http.post("/admin/rollouts/current/promote", json={})
    assert refused.status_code == 409
    assert "exam week" in refused.json()["error"]["message"]
    assert (await two_nodes.http.post("/admin/rollouts/rollback", json={})).status_code == 200
    refused = await two_nodes.http.post("/admin/rollouts", json={"release": "v1.2"})
    assert "exam week" in refused.json()["error"]["message"]
    assert (await two_nodes.http.delete("/admin/rollouts/lock")).status_code == 204
    await two_nodes.deploy(strategy="blue-green")


async def test_a_node_without_the_release_stops_it_before_any_traffic(two_nodes: Site) -> None:
    del two_nodes.nodes[1].store.models[NEW]
    await two_nodes.deploy(strategy="blue-green")
    shown = await two_nodes.phase(Phase.REFUSED)
    assert "n1" in shown["reason"]
    assert await two_nodes.table() == {OLD: 1.0}


async def test_a_second_set_of_nodes_by_label_gets_all_traffic(two_nodes: Site) -> None:
    del two_nodes.nodes[0].store.models[NEW]
    await two_nodes.deploy(strategy="blue-green", nodes={"colour": "green"})
    await two_nodes.phase(Phase.BAKE)
    assert await two_nodes.ask() == NEW


async def test_back_and_forth_under_streaming_callers_no_request_fails_nor_meets_a_release_without_traffic(
    two_nodes: Site,
) -> None:
    """The small version of `python -m bench.rollouts moving`."""
    wrong: list[str] = []
    count, going = 0, True

    async def call(number: int) -> None:
        nonlocal count
        while going:
            count += 1
            had = await two_nodes.weights()
            body = {"prompt": f"Hello {number} {count}", "stream": True, "temperature": 1}
            async with two_nodes.http.stream("POST", "/generate", json=body) as answer:
                text = "".join([piece async for piece in answer.aiter_text()])
                release = answer.headers.get("x-ramsey-release", "")
            has = await two_nodes.weights()
            if answer.status_code != 200 or '"done":true' not in text.replace(" ", ""):
                wrong.append(text)
            elif not (had.get(release) or has.get(release)):
                wrong.append(f"{release} of {had} and {has}")
            await asyncio.sleep(0.02)  # one process serves all: it must not be kept from its own rollouts

    callers = [asyncio.create_task(call(number)) for number in range(10)]
    for release in ("v1.2", "v1.1", "v1.2"):
        steps = [{"weight": "50%", "min_time": "200ms"}, {"weight": "100%", "min_time": "200ms"}]
        await two_nodes.deploy(release, steps=steps, keep_warm="200ms")
        await two_nodes.phase(Phase.DONE)
    await two_nodes.deploy("v1.1", strategy="blue-green")
    await two_nodes.phase(Phase.BAKE)
    await two_nodes.http.post("/admin/rollouts/rollback", json={})
    going = False
    await asyncio.gather(*callers)
    assert wrong == []
    assert count > 100
    assert await two_nodes.table() == {NEW: 1.0}


async def test_a_rollback_goes_to_a_named_release_and_never_to_one_that_is_nowhere(two_nodes: Site) -> None:
    answer = await two_nodes.http.post("/admin/rollouts/rollback", json={})
    assert answer.status_code == 409
    assert "Name a version" in answer.json()["error"]["hint"]
    answer = await two_nodes.http.post("/admin/rollouts/rollback", json={"release": "v0.9"})
    assert answer.status_code == 404
    assert "ramsey release create" in answer.json()["error"]["hint"]
    answer = await two_nodes.http.post("/admin/rollouts/rollback", json={"release": "v1.2"})
    assert answer.status_code == 200, answer.text
    await two_nodes.phase(Phase.DONE)
    assert await two_nodes.table() == {NEW: 1.0}


async def test_a_deploy_ends_a_rollout_that_only_bakes(two_nodes: Site) -> None:
    third = FakeModel("ramsey-model:v1.3")
    for node in two_nodes.nodes:
        node.store.models[third.name] = third
        node.store.blobs.add(third.weights)
    await two_nodes.services.pool.check()
    first = await two_nodes.deploy(strategy="blue-green")
    await two_nodes.phase(Phase.BAKE)
    refused = await two_nodes.http.post("/admin/rollouts", json={"release": "v1.1"})
    assert "ramsey rollback" in refused.json()["error"]["hint"], "it is still warm"
    await two_nodes.deploy("v1.3", strategy="blue-green")
    await two_nodes.phase(Phase.BAKE)
    assert await two_nodes.table() == {NEW: 0.0, "ramsey-model:v1.3": 1.0}
    ended = (await two_nodes.http.get(f"/admin/rollouts/{first['id']}")).json()
    assert ended["phase"] == Phase.DONE


async def test_what_it_waits_for_is_told(two_nodes: Site) -> None:
    await two_nodes.deploy(steps=[{"weight": "5%", "min_time": "1h"}, 1])
    shown = await two_nodes.until(lambda shown: shown["weight"] == 0.05 and bool(shown["waits"]))
    assert shown["waits"] == "Its least time is not over."
    await two_nodes.http.put("/admin/rollouts/lock", json={"message": "exam week"})
    assert (await two_nodes.http.get("/admin/rollouts/lock")).json()["message"] == "exam week"


async def test_an_older_leader_moves_nothing_and_stands_for_election_again(two_nodes: Site) -> None:
    rollouts = two_nodes.services.rollouts
    async with asyncio.timeout(10):
        while rollouts.leader.fence is None:
            await asyncio.sleep(0.01)
    stale = rollouts.leader.fence
    async with two_nodes.services.database.write() as connection:
        await RolloutStore().raise_fence(connection, "another")
    await two_nodes.deploy(strategy="blue-green")
    with pytest.raises(Superseded, match="leads the rollouts now"):
        await rollouts.controller.tick(stale)
    await two_nodes.phase(Phase.BAKE)
    assert rollouts.leader.fence is not None
    assert rollouts.leader.fence > stale + 1

"""The other strategies from wire to wire: recreate, shadow, A/B."""

from tests.deployment.releases.rollout.conftest import NEW, OLD, Site

from deployment.releases.rollout.model import Phase


async def test_recreate_moves_all_traffic_and_keeps_nothing_warm(two_nodes: Site) -> None:
    await two_nodes.deploy(strategy="recreate")
    await two_nodes.phase(Phase.DONE)
    assert await two_nodes.table() == {NEW: 1.0}
    assert await two_nodes.ask() == NEW


async def test_shadow_mirrors_requests_and_leaves_the_traffic_as_it_was(two_nodes: Site) -> None:
    await two_nodes.deploy(strategy="shadow", shadow={"share": 1.0, "time": 0, "min_requests": 5})
    await two_nodes.phase(Phase.SHADOW)
    answered = [await two_nodes.ask()]
    while (shown := await two_nodes.now())["phase"] == Phase.SHADOW:  # on busy nodes some are not mirrored
        answered.append(await two_nodes.ask())
    assert set(answered) == {OLD}, "no caller met the shadowed release"
    assert shown["phase"] == Phase.DONE
    assert shown["mirrored"] >= 5
    assert f"{shown['mirrored']} requests were mirrored" in shown["reason"]
    assert await two_nodes.table() == {OLD: 1.0}


async def test_an_ab_test_holds_its_share_until_a_person_decides(two_nodes: Site) -> None:
    await two_nodes.deploy(strategy="ab", steps=["50%"])
    shown = await two_nodes.until(lambda shown: shown["stop"] == "decision")
    assert shown["phase"] == Phase.STEPS
    assert await two_nodes.table() == {OLD: 0.5, NEW: 0.5}
    first = await two_nodes.ask()
    assert {await two_nodes.ask() for _ in range(5)} == {first}, "a key keeps its release"
    assert (await two_nodes.say("abort"))["phase"] == Phase.ABORTED
    assert await two_nodes.table() == {OLD: 1.0}

"""Releases come onto nodes: the same on each, or with the reason why not."""

import asyncio
from pathlib import Path

import pytest
from tests.deployment.releases.catalogue.conftest import MODELS, Works, works
from tests.support.embedded_node import start_node
from tests.support.fake_node import FakeModel, FakeNode

from deployment.access import LOCAL_OPERATOR
from deployment.errors import Conflict, NotFound
from deployment.ollama_client import OllamaClient, Timeouts
from deployment.releases.catalogue import distribution
from deployment.releases.catalogue.distribution import missing

NAME = "ramsey-model:v1.1"
Two = tuple[FakeNode, FakeNode, Works]


async def test_every_node_gets_the_same_digest_and_again_changes_nothing(two: Two) -> None:
    a, b, made = two
    assert missing(NAME, made.nodes()) == made.nodes()
    first = await made.ensure()
    assert {name: report.ok for name, report in first.items()} == {"a": True, "b": True}
    digest = (await made.catalogue.get(NAME)).digest
    assert (
        {node.store.models[NAME].digest for node in (a, b)} == {digest} == {report.digest for report in first.values()}
    )
    assert await made.ensure() == first
    assert (a.requests["/api/create"], a.store.uploads) == (1, 1)
    await made.pool.check()
    assert missing(NAME, made.nodes()) == []


async def test_who_asks_at_the_same_time_shares_one_work_that_outlives_them(two: Two) -> None:
    a, _, made = two
    asked = [asyncio.create_task(made.ensure("a")) for _ in range(5)]
    while not made.distribution.doing():
        await asyncio.sleep(0)
    asked[0].cancel()
    reports = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(reports[0], asyncio.CancelledError)
    assert all(report["a"].ok for report in reports[1:] if isinstance(report, dict))
    assert (a.requests["/api/create"], a.store.uploads) == (1, 1)
    assert made.distribution.doing() == []


async def test_on_embedded_nodes_the_bytes_are_those_that_were_given(tmp_path: Path) -> None:
    with start_node(tmp_path / "a") as a, start_node(tmp_path / "b") as b:
        async with works({"a": a, "b": b}, tmp_path) as made:
            reports = await made.ensure()
            assert all(report.ok for report in reports.values()), reports
            async with OllamaClient(a, NAME) as one, OllamaClient(b, NAME) as other:
                assert [row["digest"] for row in await one.tags()] == [row["digest"] for row in await other.tags()]
                assert await one.has_blob(f"sha256:{made.entry.weights_sha256}")
                answer = await other.chat([{"role": "user", "content": "I need to know R(3,3)?"}])
                assert "R(3,3) = 6" in answer.text


async def test_nodes_whose_versions_write_another_digest_are_told(tmp_path: Path) -> None:
    async with (
        FakeNode(models=()) as a,
        FakeNode(models=(), version="0.34.0") as b,
        works({"a": a.url, "b": b.url}, tmp_path) as made,
    ):
        assert (await made.ensure("a"))["a"].ok
        report = (await made.ensure("b"))["b"]
        assert not report.ok
        assert "it runs Ollama 0.34.0, a 0.33.0" in str(report.problem)
        assert f"OLLAMA_HOST={b.url} ollama rm {NAME}" in str(report.problem)
        assert (await made.ensure("b"))["b"] == report
        assert b.requests["/api/create"] == 1


async def test_a_digest_that_nobody_holds_any_more_binds_nobody(tmp_path: Path) -> None:
    async with (
        FakeNode(models=()) as a,
        FakeNode(models=(), version="0.34.0") as b,
        works({"a": a.url, "b": b.url}, tmp_path) as made,
    ):
        await made.ensure("a")
        del a.store.models[NAME]
        assert (await made.ensure("b"))["b"].ok
        assert (await made.catalogue.get(NAME)).digest == b.store.models[NAME].digest
        assert not (await made.ensure("a"))["a"].ok


async def test_a_node_that_holds_another_release_under_the_name_is_told_and_left_alone(two: Two) -> None:
    a, _, made = two
    a.store.models[NAME] = FakeModel(NAME, system="You play chess.")
    report = (await made.ensure("a"))["a"]
    assert not report.ok
    assert f"It holds another {NAME}: its template and system and parameters differ" in str(report.problem)
    assert a.store.models[NAME].system == "You play chess."


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            {"kind": "error", "path": "/api/create", "text": "write /m/x: no space left on device"},
            "The disk of a is full",
        ),
        (
            {"kind": "error", "path": "/api/blobs", "text": "write /m/x: no space left on device"},
            "The disk of a is full",
        ),
        ({"kind": "reset", "path": "/api/blobs"}, "a went away while uploading after"),
        ({"kind": "hang", "path": "/api/blobs"}, "bytes: The engine stood still for 1 s"),
        ({"kind": "hang", "path": "/api/create"}, "a went away while creating: The engine stood still"),
        ({"kind": "reset", "path": "/api/create"}, "a went away while creating"),
        ({"kind": "error", "path": "/api/create", "status": 400, "text": "NaN in weights"}, "NaN in weights"),
    ],
)
async def test_what_fails_on_one_node_is_told_by_its_name_and_mended_later(
    tmp_path: Path, fault: dict[str, str], words: str
) -> None:
    async with (
        FakeNode(models=()) as a,
        FakeNode(models=()) as b,
        works({"a": a.url, "b": b.url}, tmp_path, stall_s=1.0) as made,
    ):
        a.fail(**fault)
        async with asyncio.timeout(20):
            reports = await made.ensure()
        assert (reports["a"].ok, reports["b"].ok) == (False, True)
        assert words in str(reports["a"].problem)
        a.heal()
        assert (await made.ensure())["a"].ok


async def test_a_node_that_is_down_is_told(two: Two) -> None:
    a, _, made = two
    await a.stop()
    reports = await made.ensure()
    assert "a went away while checking" in str(reports["a"].problem)
    assert reports["b"].ok


async def test_a_node_that_hangs_is_given_up(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribution, "LOOK", Timeouts(total=0.3))
    a, _, made = two
    a.fail("hang", path="/api/tags")
    async with asyncio.timeout(20):
        reports = await made.ensure()
    assert "a went away while checking: The engine did not answer within 0.3 s" in str(reports["a"].problem)
    assert reports["b"].ok


async def test_corrupt_kept_weights_reach_no_node(two: Two) -> None:
    a, _, made = two
    path = made.catalogue.artefacts.path(made.entry.weights_sha256)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    report = (await made.ensure("a"))["a"]
    assert f"The kept weights of {NAME} are corrupt" in str(report.problem)
    assert a.store.uploads == 0


async def test_weights_that_a_node_lost_are_brought_again(two: Two) -> None:
    a, _, made = two
    await made.ensure("a")
    await made.pool.check()
    made.pool._admission.nodes["a"].on(NAME).missing = True  # as after a request that it could not serve
    assert [node.name for node in missing(NAME, made.nodes("a"))] == ["a"]
    assert (await made.ensure("a"))["a"].ok
    assert a.requests["/api/create"] == 2


async def test_what_is_deleted_or_unknown_is_refused(two: Two) -> None:
    _, _, made = two
    with pytest.raises(NotFound):
        await made.distribution.ensure("ramsey-model:v9", made.nodes())
    await made.catalogue.give_up(NAME, LOCAL_OPERATOR)
    with pytest.raises(Conflict, match=r"v1\.1 was deleted on .* its weights are gone"):
        await made.ensure()


async def test_pruning_keeps_the_newest_and_what_is_protected(two: Two) -> None:
    a, b, made = two
    names = [NAME]
    for version in ("v2", "v3", "v4"):
        text = (MODELS / "Modelfile").read_text().replace("FROM .", f"FROM {MODELS}").replace("theory.", version)
        path = made.catalogue.artefacts.path("0" * 64).with_name("Modelfile")
        path.write_text(text)
        names.append((await made.create(version, path)).name)
    for name in names:
        await made.distribution.ensure(name, made.nodes())
    a.store.models["other:latest"] = FakeModel("other:latest")
    pruned = await made.distribution.prune(2, {NAME}, LOCAL_OPERATOR)
    assert {(each.node, each.release, each.problem) for each in pruned} == {
        ("a", "ramsey-model:v2", None),
        ("b", "ramsey-model:v2", None),
    }
    assert set(a.store.models) == {NAME, "ramsey-model:v3", "ramsey-model:v4", "other:latest"}
    assert (await made.catalogue.get("v2")).pruned_at is not None
    assert all(report.ok for report in (await made.distribution.ensure("ramsey-model:v2", made.nodes())).values())
    assert (await made.catalogue.get("v2")).pruned_at is None
    assert "ramsey-model:v2" in b.store.models


async def test_a_node_that_cannot_be_pruned_is_told(two: Two) -> None:
    a, _, made = two
    await made.ensure()
    await made.pool.check()
    await a.stop()
    (one, other) = sorted(await made.distribution.remove(made.entry), key=lambda each: each.node)
    assert (one.node, other.node, other.problem) == ("a", "b", None)
    assert one.problem is not None


async def test_a_node_that_hangs_while_it_unloads_keeps_no_release_on_any(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distribution, "LOOK", Timeouts(total=0.3))
    a, b, made = two
    await made.ensure()
    await made.pool.check()
    await made.pool.load(NAME, ["a", "b"])
    monkeypatch.setattr(a.scheduler, "unload", lambda _: asyncio.Event().wait())
    async with asyncio.timeout(20):
        removed = await made.distribution.remove(made.entry)
    assert sorted((each.node, each.problem) for each in removed) == [("a", None), ("b", None)]
    assert not {**a.store.models, **b.store.models}

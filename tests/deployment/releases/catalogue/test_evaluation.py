"""Questions with known answers, and the gates that stand on them and on the nodes: with real engines."""

import json
import os
import stat
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.deployment.releases.catalogue.conftest import MODELS, Works, works
from tests.support.embedded_node import start_node
from tests.support.fake_node import FakeModel, FakeNode

from deployment.access import LOCAL_OPERATOR
from deployment.clock import SystemClock
from deployment.errors import ConfigurationError, InvalidRequest, ModelMissing
from deployment.gguf import read_metadata
from deployment.releases.catalogue import Wish
from deployment.releases.catalogue.evaluation import Evaluation, Question, evaluate, parse_questions, read_questions
from deployment.releases.catalogue.gates import (
    DigestsGate,
    EvaluationGate,
    ExecutableGate,
    Gate,
    GateContext,
    LoadGate,
    MemoryGate,
    SmokeGate,
    WebhookGate,
    run_gates,
)
from deployment.releases.catalogue.gates.nodes import needed_bytes

REGRESSED = Path(__file__).resolve().parents[3] / "support" / "models" / "Modelfile.v1.2"
V11, V12 = "ramsey-model:v1.1", "ramsey-model:v1.2"
CLOCK = SystemClock()


def context_of(made: Works, **more: Any) -> GateContext:
    return GateContext(made.entry, made.nodes(), **more)


# --- evaluation ----------------------------------------------------------------------------------------------------


async def test_the_regressed_model_is_stopped_by_its_evaluation_and_by_nothing_before(tmp_path: Path) -> None:
    questions = read_questions(MODELS / "eval.jsonl")
    with start_node(tmp_path / "a") as a, start_node(tmp_path / "b") as b:
        async with works({"a": a, "b": b}, tmp_path) as made:
            bad = await made.catalogue.create(REGRESSED, Wish("ramsey-model", "v1.2"), LOCAL_OPERATOR)
            for name in (V11, V12):
                assert all(one.ok for one in (await made.distribution.ensure(name, made.nodes())).values())
            await made.pool.check()

            async def score(release: str, asked: Sequence[Question]) -> Evaluation:
                found = await evaluate(made.pool, release, asked, CLOCK)
                await made.catalogue.note_evaluation(release, found.document())
                return found

            async def scores(release: str) -> Any:
                return (await made.catalogue.get(release)).evaluation

            gates: list[Gate] = [
                DigestsGate(),
                MemoryGate(made.catalogue.artefacts, 4096),
                LoadGate(made.pool, CLOCK),
                SmokeGate(["Hello.", "What is R(3,3)?"], CLOCK),
                EvaluationGate(questions, score, scores, floor=0.5, margin=0.05),
            ]
            good = await run_gates(gates, context_of(made))
            assert [one.passed for one in good] == [True] * 5, good
            assert "172 of 173 right (99.4%); the floor is 50%" in good[-1].reason
            results = await run_gates(gates, replace(context_of(made, current=V11), entry=bad))
            assert [(one.name, one.passed) for one in results] == [
                ("digests", True),
                ("memory", True),
                ("load", True),
                ("smoke", True),
                ("evaluation", False),
            ], results
            right = int(results[-1].reason.split()[0])
            assert right < 87, results[-1]
            kept = (await made.catalogue.get(V12)).evaluation
            assert kept is not None
            assert (kept["right"], kept["of"], len(kept["wrong"])) == (right, 173, 5)


class Answers:
    """Scores as they are said to be."""

    def __init__(self, **right: int) -> None:
        self.right, self.asked = right, list[str]()

    async def score(self, release: str, asked: Sequence[Question]) -> Evaluation:
        self.asked.append(release)
        tag = release.rpartition(":")[2].replace(".", "_")
        return Evaluation(self.right[tag], 100, {}, (), "x", "2026-11-24T12:00:00+00:00", 1.0)

    async def none(self, _: str) -> None:
        return None


@pytest.mark.parametrize(
    ("new", "old", "floor", "passed"),
    [(90, 90, 0.9, True), (89, 50, 0.9, False), (85, 90, 0.0, True), (84, 90, 0.0, False), (100, 0, 1.0, True)],
)
async def test_the_floor_and_the_margin(
    two: tuple[FakeNode, FakeNode, Works], new: int, old: int, floor: float, passed: bool
) -> None:
    answers = Answers(v1_1=new, v1_0=old)
    gate = EvaluationGate([Question("1", "all", "?", "!")], answers.score, answers.none, floor, 0.05)
    result = await gate.check(context_of(two[2], current="ramsey-model:v1.0"))
    assert result.passed is passed, result
    assert f"{new} of 100 right" in result.reason


async def test_without_questions_nothing_is_asked_and_that_is_said(two: tuple[FakeNode, FakeNode, Works]) -> None:
    answers = Answers()
    result = await EvaluationGate([], answers.score, answers.none, 0.9, 0.05).check(context_of(two[2]))
    assert (result.passed, answers.asked) == (True, [])
    assert "no evaluation set" in result.reason


async def test_what_cannot_be_asked_is_an_error_not_a_wrong_answer(two: tuple[FakeNode, FakeNode, Works]) -> None:
    with pytest.raises(ModelMissing) as caught:
        await evaluate(two[2].pool, "ramsey-model:v9", [Question("q1", "all", "?", "!")], CLOCK)
    assert caught.value.message.startswith("The question q1 could not be asked of ramsey-model:v9: ")


async def test_progress_is_told(two: tuple[FakeNode, FakeNode, Works]) -> None:
    a, _, made = two
    await made.ensure("a")
    a.store.models[V11] = replace(a.store.models[V11], reply="It is 6.")
    await made.pool.check()
    told: list[tuple[int, int, int]] = []
    asked = [Question(str(number), "all", "?", "6" if number else "7") for number in range(6)]
    found = await evaluate(made.pool, V11, asked, CLOCK, lambda *step: told.append(step))
    assert (found.right, found.of, found.by_category) == (5, 6, {"all": "5/6"})
    assert [(one.id, one.said, one.expected) for one in found.wrong] == [("0", "It is 6.", "7")]
    assert told[-1] == (6, 6, 5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds 0 questions"),
        ("{", "line 1 is not JSON"),
        ('{"prompt": "a", "expect": "b"}\n[]', "line 2 is no object"),
        ('{"prompt": "a"}', "line 1: expect must be"),
        ('{"prompt": 1, "expect": "b"}', "line 1: prompt must be"),
        ('{"prompt": "a", "expect": ""}', "line 1: expect must be"),
    ],
)
def test_questions_that_are_wrong_name_their_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        parse_questions(text)
    path = tmp_path / "q.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=words):
        read_questions(path)


def test_a_file_of_questions_that_is_none_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("none", "pipe"):
        with pytest.raises(ConfigurationError, match="There is no file of questions"):
            read_questions(tmp_path / name)


# --- gates on nodes ------------------------------------------------------------------------------------------------


async def test_digests_that_are_missing_or_differ_are_named(two: tuple[FakeNode, FakeNode, Works]) -> None:
    _, b, made = two
    gate = DigestsGate()
    await made.ensure("a")
    absent = await gate.check(context_of(made))
    assert (absent.passed, absent.reason) == (False, "1 of 2 nodes lack it. b: it does not hold the release.")
    b.store.models[V11] = FakeModel(V11)
    differ = await gate.check(context_of(made))
    assert not differ.passed
    assert "Nodes hold different ones: a " in differ.reason
    del b.store.models[V11]
    await made.ensure()
    assert (await gate.check(context_of(made))).passed


async def test_a_node_that_cannot_load_or_answer_is_named(two: tuple[FakeNode, FakeNode, Works]) -> None:
    a, _, made = two
    await made.ensure()
    await made.pool.check()
    a.fail(
        "error", path="/api/generate", text="model requires more system memory (9.0 GiB) than is available (1.2 GiB)"
    )
    load = await LoadGate(made.pool, CLOCK).check(context_of(made))
    assert not load.passed
    assert (
        "1 of 2 nodes cannot load it. a: The engine failed: model requires more system memory (9.0 GiB)" in load.reason
    )
    a.heal()
    assert (await LoadGate(made.pool, CLOCK).check(context_of(made))).passed
    a.fail("crash")
    smoke = await SmokeGate(["Hello."], CLOCK).check(context_of(made))
    assert not smoke.passed
    assert smoke.reason.startswith("a failed at 'Hello.'")
    a.heal()
    a.store.models[V11] = replace(a.store.models[V11], reply="\n")
    silent = await SmokeGate(["Hello."], CLOCK).check(context_of(made))
    assert (silent.passed, silent.reason) == (False, "a said nothing to 'Hello.'.")


async def test_memory_is_held_against_what_a_node_says(two: tuple[FakeNode, FakeNode, Works]) -> None:
    made = two[2]
    gate = MemoryGate(made.catalogue.artefacts, 4096)
    silent = await gate.check(context_of(made))
    assert silent.passed
    assert "a, b say nothing of their memory (label memory_gb)" in silent.reason
    nodes = [replace(node, labels={"memory_gb": size}) for node, size in zip(made.nodes(), ("1", "0.005"), strict=True)]
    small = await gate.check(replace(context_of(made), nodes=nodes))
    assert not small.passed
    assert "b has 5.0 MB, 0 bytes in use; it needs " in small.reason
    assert (await gate.check(replace(context_of(made), nodes=nodes[:1]))).passed


async def test_the_cache_is_counted_for_every_slot(two: tuple[FakeNode, FakeNode, Works]) -> None:
    made = two[2]
    header = read_metadata(MODELS / "ramsey-model-v1.1.gguf")
    one, four = (needed_bytes(made.entry, header, slots, 4096) - made.entry.weights_bytes for slots in (1, 4))
    told = header.metadata
    heads, kv = told["llama.attention.head_count"], told["llama.attention.head_count_kv"]
    per_position = 2 * told["llama.block_count"] * kv * (told["llama.embedding_length"] // heads) * 2
    assert (one, four) == (512 * per_position, 4 * 512 * per_position)


# --- gates of one's own ----------------------------------------------------------------------------------------------


@pytest.fixture
async def hook() -> AsyncIterator[tuple[str, list[Any], dict[str, Any]]]:
    """A webhook's URL, what it got, and what it is to answer."""
    got: list[Any] = []
    answer: dict[str, Any] = {"status": 200, "text": ""}

    async def take(request: web.Request) -> web.Response:
        got.append(await request.json())
        return web.Response(status=answer["status"], text=answer["text"], headers=answer.get("headers"))

    app = web.Application()
    app.router.add_post("/hook", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    yield f"http://127.0.0.1:{port}/hook", got, answer
    await runner.cleanup()


async def test_a_webhook_says_yes_or_no(
    two: tuple[FakeNode, FakeNode, Works], hook: tuple[str, list[Any], dict[str, Any]]
) -> None:
    url, got, answer = hook
    gate = WebhookGate(url, ["127.0.0.1"], 5)
    result = await gate.check(context_of(two[2], current="ramsey-model:v1.0"))
    assert result == ("webhook", True, "127.0.0.1 answered 200.")
    assert (got[0]["release"], got[0]["current"], got[0]["nodes"]) == (V11, "ramsey-model:v1.0", ["a", "b"])
    answer.update(status=409, text="not on\n\x1b[2J Fridays")
    assert (await gate.check(context_of(two[2]))).reason == "127.0.0.1 answered 409: not on [2J Fridays."
    answer.update(status=302, text="", headers={"Location": url})
    assert not (await gate.check(context_of(two[2]))).passed
    assert len(got) == 3


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://169.254.169.254/latest", "host 169.254.169.254 may not be called"),
        ("https://other.example/", "host other.example may not be called"),
        ("file:///etc/passwd", "is http:// or https://"),
        ("http://user:pw@ci.example/", "without a password"),
        ("http://ci.example:99999/", "is http:// or https://"),
        ("nonsense", "is http:// or https://"),
    ],
)
def test_webhooks_go_only_where_the_settings_allow(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        WebhookGate(url, ["ci.example"])


async def test_a_webhook_that_is_away_or_silent_is_a_no(two: tuple[FakeNode, FakeNode, Works]) -> None:
    a, _, made = two
    a.fail("hang", path="/api/create")
    away = await WebhookGate("http://127.0.0.1:9/hook", ["127.0.0.1"], 5).check(context_of(made))
    assert (away.passed, away.reason) == (False, "127.0.0.1 cannot be asked: ClientConnectorError.")
    silent = await WebhookGate(f"{a.url}/api/create", ["127.0.0.1"], 0.2).check(context_of(made))
    assert (silent.passed, silent.reason) == (False, "127.0.0.1 did not answer within 0.2 s.")


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


async def test_an_executable_says_yes_or_no_in_a_clean_environment(
    two: tuple[FakeNode, FakeNode, Works], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAMSEY_API_KEY", "secret")
    program(tmp_path, "check", 'cat > got.json; env > env.txt; echo "$1 is bad"; exit $2')
    context = context_of(two[2])
    assert await ExecutableGate(["check", "it", "0"], tmp_path).check(context) == (
        "executable",
        True,
        "check ended with status 0: it is bad.",
    )
    assert not (await ExecutableGate(["check", "it", "3"], tmp_path).check(context)).passed
    assert json.loads((tmp_path / "got.json").read_text())["release"] == V11
    environment = (tmp_path / "env.txt").read_text()
    assert "secret" not in environment
    assert f"RAMSEY_RELEASE={V11}" in environment


async def test_an_executable_that_does_not_end_is_killed_with_its_children(
    two: tuple[FakeNode, FakeNode, Works], tmp_path: Path
) -> None:
    program(tmp_path, "hang", "sleep 600 & echo $! > child; wait")
    result = await ExecutableGate(["hang"], tmp_path, 0.5).check(context_of(two[2]))
    assert (result.passed, result.reason) == (False, "hang did not end within 0.5 s, and was killed.")
    child = int((tmp_path / "child").read_text())
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_only_executables_of_the_folder_may_be_gates(tmp_path: Path) -> None:
    folder = tmp_path / "gates"
    folder.mkdir()
    program(tmp_path, "outside", "exit 0")
    (folder / "text").write_text("no program")
    (folder / "link").symlink_to(tmp_path / "outside")
    for command in (["../outside"], ["/bin/true"], ["text"], ["link"], ["none"], ["."]):
        with pytest.raises(ConfigurationError, match="is no executable file"):
            ExecutableGate(command, folder)
    with pytest.raises(ConfigurationError, match="No executable may be a gate"):
        ExecutableGate(["check"], None)


async def test_after_a_gate_that_says_no_none_is_asked(two: tuple[FakeNode, FakeNode, Works]) -> None:
    results = await run_gates([DigestsGate(), SmokeGate(["Hello."], CLOCK)], context_of(two[2]))
    assert [(one.name, one.passed) for one in results] == [("digests", False)]
    assert two[0].requests["/api/chat"] == 0

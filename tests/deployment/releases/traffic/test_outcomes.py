from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from tests.deployment.access.test_sync import Road
from tests.support.held_clock import HeldClock

from deployment.database import Database
from deployment.errors import (
    DatabaseUnavailable,
    Draining,
    EngineBusy,
    EngineCrashed,
    EngineRefused,
    EngineTimeout,
    InvalidRequest,
    RateLimited,
)
from deployment.releases.traffic import (
    Answered,
    Choice,
    OutcomeStore,
    RecentAnswers,
    Recorder,
    ShadowSample,
    Share,
    Split,
    Watch,
    is_failure,
    outcomes,
)

OLD, NEW = "ramsey-model:v1.0", "ramsey-model:v1.1"
SPLIT = Split("ramsey-model", (Share(OLD, 0.9), Share(NEW, 0.1)), candidate=NEW, rollout="r1")
Make = Callable[[Database, HeldClock], Recorder]


def recorder_of(database: Database, clock: HeldClock) -> Recorder:
    return Recorder(database, OutcomeStore(), clock, "g1", CollectorRegistry(), silent_s=30, whole_s=120)


def begun(recorder: Recorder, release: str = NEW, *, stream: bool = True) -> Watch:
    watch = recorder.begin(SPLIT, Choice(release, 0.1, False, "c1"), length=100, stream=stream)
    assert watch is not None
    return watch


@pytest.mark.parametrize(
    ("error", "failed"),
    [
        (EngineCrashed("x"), True),
        (EngineTimeout("x"), True),
        (EngineBusy("x"), True),
        (EngineRefused("x"), False),
        (InvalidRequest("x"), False),
        (RateLimited("x"), False),
        (Draining("x"), False),
        (DatabaseUnavailable("x"), False),
        (ValueError("x"), False),
    ],
)
def test_whose_failure_it_is(error: Exception, failed: bool) -> None:
    assert is_failure(error) is failed


async def test_what_nobody_judges_is_not_watched(database: Database) -> None:
    recorder = recorder_of(database, HeldClock())
    for split, choice in (
        (replace(SPLIT, rollout=None), Choice(NEW, 0.1)),
        (SPLIT, Choice(NEW, None, True)),
        (SPLIT, Choice(NEW, None)),
    ):
        assert recorder.begin(split, choice, length=1, stream=True) is None


async def test_outcomes_are_written_in_batches(database: Database) -> None:
    clock = HeldClock()
    recorder = recorder_of(database, clock)
    candidate, stable, gone = begun(recorder), begun(recorder, OLD), begun(recorder)
    recorder.end(candidate, candidate.outcome(failed=False, ttft_ms=5.0, token_ms=2.0, node_class="a100"))
    recorder.end(candidate, candidate.outcome(failed=True))  # the first time counts
    recorder.end(stable, stable.outcome(failed=True))
    recorder.drop(gone)
    recorder.shadow("r1", ShadowSample(1.0, True, False, None, None, None, None))
    await recorder.flush()
    await recorder.flush()
    async with database.read() as connection:
        (batch,) = await OutcomeStore().after(connection, "r1", 0)
    assert (batch.gateway, batch.flushed_at, batch.lost, len(batch.shadows)) == ("g1", clock.now(), 0, 1)
    first, second = batch.outcomes
    assert first == (clock.now().timestamp(), True, 0.1, False, 5.0, 2.0, "a100", 7, "c1")
    assert (second.candidate, second.failed) == (False, True)
    assert recorder.written_at == clock.now()


async def test_what_is_silent_for_too_long_has_failed(database: Database) -> None:
    clock = HeldClock()
    recorder = recorder_of(database, clock)
    silent, talking, whole = begun(recorder), begun(recorder), begun(recorder, stream=False)
    recorder.answered(talking)
    clock.advance(31)
    await recorder.flush()
    recorder.end(silent, silent.outcome(failed=False))  # too late
    recorder.end(talking, talking.outcome(failed=False))
    clock.advance(90)
    await recorder.flush()
    recorder.end(whole, whole.outcome(failed=False))
    await recorder.flush()
    async with database.read() as connection:
        batches = await OutcomeStore().after(connection, "r1", 0)
    assert [[each.failed for each in batch.outcomes] for batch in batches] == [[True], [False, True]]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_while_the_database_is_away_memory_is_bounded_and_the_gap_is_told(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes, "MOST", 5)
    road, clock = Road(database_url, tmp_path), HeldClock()
    database = Database(road.url)
    recorder = recorder_of(database, clock)
    await recorder.flush()
    written = recorder.written_at
    await road.close(database)
    for _ in range(8):
        watch = begun(recorder)
        recorder.end(watch, watch.outcome(failed=False))
        clock.advance(1)
        with pytest.raises(DatabaseUnavailable):
            await recorder.flush()
    assert recorder.written_at == written
    road.open()
    await recorder.flush()
    watch = begun(recorder)
    recorder.end(watch, watch.outcome(failed=False))
    await recorder.flush()
    async with database.read() as connection:
        batches = await OutcomeStore().after(connection, "r1", 0)
    assert [(len(batch.outcomes), batch.lost) for batch in batches] == [(5, 3), (1, 0)]
    assert recorder.written_at == clock.now()
    await database.close()


def test_the_last_answers_are_remembered_each_for_its_tenant() -> None:
    recent = RecentAnswers(100)
    for n in range(250):
        recent.note("acme", f"r{n}", NEW, "r1" if n % 2 else None, "ada")
    assert recent.find("acme", "r249") == Answered(NEW, "r1", "ada")
    assert recent.find("acme", "r150") == Answered(NEW, None, "ada")
    assert recent.find("acme", "r0") is None
    assert recent.find("other", "r249") is None
    assert 100 <= len(recent) <= 125

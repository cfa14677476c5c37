"""Releases as they are kept: made once, never changed, found again with the same bytes."""

import asyncio
import errno
import hashlib
import os
import shutil
from collections import namedtuple
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.held_clock import HeldClock

from deployment.access import LOCAL_OPERATOR
from deployment.database import Database
from deployment.errors import (
    ConfigurationError,
    Conflict,
    DiskFull,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    RequestTimeout,
)
from deployment.releases.catalogue import Artefacts, Catalogue, CatalogueStore, Wish
from deployment.releases.catalogue.model import with_files
from deployment.settings import load

MODELS = Path(__file__).resolve().parents[4] / "models" / "ollama"
V11 = "2d65ee3ba25f82f69cff8226f1d8c6419fa8554a2661814193e144ff7cb5fa56"
MODEL = "ramsey-model"
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("Modelfile", "ramsey-model-v1.0.gguf", "ramsey-model-v1.1.gguf"):
        shutil.copy(MODELS / name, folder)
    return folder


def catalogue_of(database: Database, folder: Path, clock: HeldClock | None = None, **model: Any) -> Catalogue:
    settings = load(data_dir=folder / "data", model={"modelfile": folder / "Modelfile", **model})
    artefacts = Artefacts(settings.releases_dir, settings.releases.max_bytes)
    return Catalogue(settings, CatalogueStore(database), artefacts, clock or HeldClock())


@pytest.fixture
def catalogue(database: Database, folder: Path) -> Catalogue:
    return catalogue_of(database, folder)


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "Modelfile"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


async def create(catalogue: Catalogue, folder: Path, version: str | None = "v1.1", notes: str = "") -> Any:
    return await catalogue.create(folder / "Modelfile", Wish(MODEL, version, notes), LOCAL_OPERATOR)


async def test_a_release_says_what_it_is_made_of_by_whom_and_when(catalogue: Catalogue, folder: Path) -> None:
    made = await create(catalogue, folder, notes="The good one.")
    found = await catalogue.get("v1.1")
    assert found == made == (await catalogue.list())[0]
    assert (found.name, found.weights_sha256, found.weights_bytes) == ("ramsey-model:v1.1", V11, 3_683_680)
    assert (found.created_by, found.notes) == (LOCAL_OPERATOR.name, "The good one.")
    assert found.system == "You are the Ramsey model, a small assistant for Ramsey theory."
    assert found.load_options == {"num_ctx": 512}
    assert found.parameters["num_predict"] == 160
    assert str(folder) not in found.modelfile_text


async def test_the_kept_bytes_outlive_the_file_that_was_given(catalogue: Catalogue, folder: Path) -> None:
    made = await create(catalogue, folder)
    (folder / "ramsey-model-v1.1.gguf").unlink()
    path = catalogue.artefacts.verified(made.weights_sha256, made.name)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == V11
    assert with_files(made.modelfile, {V11: path}).from_path == path


async def test_without_a_version_the_weights_say_it(catalogue: Catalogue, folder: Path) -> None:
    assert (await create(catalogue, folder, None)).tag == "v1.1"


async def test_a_version_that_exists_is_refused_with_its_date_and_author(catalogue: Catalogue, folder: Path) -> None:
    first = await create(catalogue, folder)
    edit(folder, "v1.1.gguf", "v1.0.gguf")
    with pytest.raises(Conflict, match=r"v1\.1 was created 2026-11-24 12:00 UTC by the command line.*never changes"):
        await create(catalogue, folder)
    assert await catalogue.get("v1.1") == first
    assert not catalogue.artefacts.has("2469e7bfb5a2592162a73e6d77c7aed1fd19871a9b39415d55e60d0b464d9738")


async def test_of_many_at_once_one_is_made(database: Database, folder: Path) -> None:
    async def one(number: int) -> str | None:
        catalogue = catalogue_of(database, folder)
        own = folder / f"Modelfile.{number}"
        own.write_text((folder / "Modelfile").read_text() + f"MESSAGE user {number}\n")
        try:
            made = await catalogue.create(own, Wish(MODEL, "v2"), LOCAL_OPERATOR)
        except Conflict:
            return None
        return made.recipe_digest

    results = await asyncio.gather(*(one(number) for number in range(4)))
    won = [result for result in results if result is not None]
    assert len(won) == 1
    assert (await catalogue_of(database, folder).get("v2")).recipe_digest == won[0]


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("V1.1", "capital letters, which Ollama folds"),
        ("v1-cloud", "would send prompts elsewhere"),
        ("cloud", "would send prompts elsewhere"),
        ("local", "keeps for itself"),
        ("latest", "names no version"),
        ("../x", "cannot be a version"),
        ("", "cannot be a version"),
        ("v" * 81, "cannot be a version"),
    ],
)
async def test_versions_that_must_not_be_used(catalogue: Catalogue, folder: Path, version: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        await create(catalogue, folder, version)
    assert await catalogue.list() == []


async def test_what_is_no_model_notes_or_file_is_told(catalogue: Catalogue, folder: Path) -> None:
    path = folder / "Modelfile"
    with pytest.raises(InvalidRequest, match="cannot be the name of a model"):
        await catalogue.create(path, Wish("Ramsey:x", "v1"), LOCAL_OPERATOR)
    with pytest.raises(InvalidRequest, match="notes"):
        await create(catalogue, folder, notes="\x1b[2J")
    edit(folder, "FROM ./ramsey-model-v1.1.gguf", "FROM base")
    with pytest.raises(ConfigurationError, match=r"builds on base.*cannot be kept"):
        await create(catalogue, folder)
    edit(folder, "FROM base", "FROM ./none.gguf")
    with pytest.raises(ConfigurationError, match=r"there is no file .*none\.gguf"):
        await create(catalogue, folder)


async def test_a_corrupt_gguf_is_refused_and_nothing_is_kept(catalogue: Catalogue, folder: Path) -> None:
    weights = folder / "ramsey-model-v1.1.gguf"
    weights.write_bytes(weights.read_bytes()[:3_000_000])
    with pytest.raises(ConfigurationError, match=r"no usable GGUF.*cut"):
        await create(catalogue, folder)
    assert await catalogue.list() == []
    assert not (folder / "data" / "releases").exists()


async def test_kept_weights_that_rot_are_found_and_mended_by_the_same_bytes(catalogue: Catalogue, folder: Path) -> None:
    made = await create(catalogue, folder)
    path = catalogue.artefacts.path(made.weights_sha256)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"rot")
    with pytest.raises(ConfigurationError, match=r"weights of ramsey-model:v1\.1 are corrupt"):
        catalogue.artefacts.verified(V11, made.name)
    catalogue.artefacts.keep(folder / "ramsey-model-v1.1.gguf")
    assert catalogue.artefacts.verified(V11, made.name) == path
    path.unlink()
    with pytest.raises(NotFound, match=r"weights of ramsey-model:v1\.1 are not kept here"):
        catalogue.artefacts.verified(V11, made.name)


async def test_a_release_is_restored_from_the_same_files_and_from_no_others(catalogue: Catalogue, folder: Path) -> None:
    made = await create(catalogue, folder)
    catalogue.artefacts.path(V11).unlink()
    again = Wish(MODEL, "v1.1", again=True)
    assert await catalogue.create(folder / "Modelfile", again, LOCAL_OPERATOR) == made
    assert catalogue.artefacts.has(V11)
    edit(folder, "theory.", "chess.")
    with pytest.raises(Conflict, match="never changes"):
        await catalogue.create(folder / "Modelfile", again, LOCAL_OPERATOR)


async def test_a_disk_without_room_is_told_before_and_while_writing(
    catalogue: Catalogue, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 1000))
        with pytest.raises(DiskFull, match=r"1\.0 KB free; 3\.7 MB"):
            await create(catalogue, folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _full)
        with pytest.raises(DiskFull, match=r"disk of .*releases is full"):
            await create(catalogue, folder)
    assert list((folder / "data" / "releases").iterdir()) == []
    assert await catalogue.list() == []


def _full(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


async def test_a_deleted_version_comes_back_only_as_it_was(catalogue: Catalogue, folder: Path) -> None:
    made = await create(catalogue, folder)
    gone = await catalogue.give_up("v1.1", LOCAL_OPERATOR)
    assert gone.deleted_at is not None
    assert not catalogue.artefacts.has(V11)
    edit(folder, "theory.", "chess.")
    with pytest.raises(Conflict, match="deleted since; only the very same release"):
        await create(catalogue, folder)
    edit(folder, "chess.", "theory.")
    back = await create(catalogue, folder)
    assert (back.deleted_at, back.created_at, back.recipe_digest) == (None, made.created_at, made.recipe_digest)
    assert catalogue.artefacts.has(V11)


async def test_weights_that_two_releases_share_stay_until_both_are_gone(catalogue: Catalogue, folder: Path) -> None:
    await create(catalogue, folder)
    edit(folder, "theory.", "chess.")
    await create(catalogue, folder, "v1.1-chess")
    await catalogue.give_up("v1.1", LOCAL_OPERATOR)
    assert catalogue.artefacts.has(V11)
    await catalogue.give_up("v1.1-chess", LOCAL_OPERATOR)
    assert not catalogue.artefacts.has(V11)


async def test_the_settings_modelfile_is_a_release_by_itself_and_once(database: Database, folder: Path) -> None:
    clock = HeldClock()
    catalogue = catalogue_of(database, folder, clock)
    first = await catalogue.adopt()
    clock.advance(60)
    assert first is not None
    assert await catalogue.adopt() == first
    assert first.created_by == "settings"
    edit(folder, "theory.", "chess.")
    with pytest.raises(ConfigurationError, match=r"another ramsey-model:v1\.1 than the one created .*: its system"):
        await catalogue.adopt()
    assert await catalogue_of(database, folder, modelfile=None).adopt() is None


async def test_an_unknown_release_is_told_with_those_that_there_are(catalogue: Catalogue, folder: Path) -> None:
    with pytest.raises(NotFound) as none:
        await catalogue.get("v9")
    assert "ramsey release create" in str(none.value.hint)
    await create(catalogue, folder)
    with pytest.raises(NotFound) as other:
        await catalogue.get("v9")
    assert "ramsey-model:v1.1" in str(other.value.hint)
    with pytest.raises(InvalidRequest, match="is no release"):
        await catalogue.get("Ramsey model")


async def test_every_act_is_recorded(catalogue: Catalogue, folder: Path, database: Database) -> None:
    await create(catalogue, folder)
    await catalogue.give_up("v1.1", LOCAL_OPERATOR)
    async with database.read() as connection:
        rows = await connection.exec_driver_sql("SELECT action, subject FROM audit_log ORDER BY seq")
        assert [tuple(row) for row in rows] == [
            ("release.create", "ramsey-model:v1.1"),
            ("release.delete", "ramsey-model:v1.1"),
        ]


async def test_a_digest_is_learned_once_and_changes_only_knowingly(catalogue: Catalogue, folder: Path) -> None:
    name = (await create(catalogue, folder)).name
    assert await catalogue.learn_digest(name, "a" * 64, None) == "a" * 64
    assert await catalogue.learn_digest(name, "b" * 64, None) == "a" * 64
    assert await catalogue.learn_digest(name, "b" * 64, "a" * 64) == "b" * 64


# --- what is uploaded --------------------------------------------------------------------------------------------


async def pieces(content: bytes, *, then_silent: bool = False) -> AsyncIterator[bytes]:
    for begin in range(0, len(content), 100_000):
        yield content[begin : begin + 100_000]
    if then_silent:
        await asyncio.Event().wait()


async def test_an_upload_becomes_a_release(catalogue: Catalogue, folder: Path) -> None:
    content = (folder / "ramsey-model-v1.1.gguf").read_bytes()
    assert await catalogue.artefacts.receive(V11, pieces(content), len(content), 5) == len(content)
    text = (folder / "Modelfile").read_text()
    files = {"./ramsey-model-v1.1.gguf": V11}
    made = await catalogue.create_uploaded(text, files, Wish(MODEL, "v1.1"), LOCAL_OPERATOR)
    shutil.rmtree(folder / "data" / "releases")
    with pytest.raises(Conflict):
        await create(catalogue, folder)
    assert (await catalogue.get("v1.1")).recipe_digest == made.recipe_digest


async def test_an_upload_that_is_wrong_leaves_nothing(catalogue: Catalogue, folder: Path) -> None:
    receive = catalogue.artefacts.receive
    with pytest.raises(InvalidRequest, match="What came has the SHA-256"):
        await receive(V11, pieces(b"x" * 300_000), None, 5)
    with pytest.raises(RequestTimeout, match="silent"):
        await receive(V11, pieces(b"x", then_silent=True), None, 0.05)
    small = Artefacts(folder / "data" / "releases", 1000)
    with pytest.raises(PayloadTooLarge):
        await small.receive(V11, pieces(b"x" * 3000), 3000, 5)
    with pytest.raises(PayloadTooLarge):
        await small.receive(V11, pieces(b"x" * 3000), None, 5)
    with pytest.raises(InvalidRequest, match="64 hex digits"):
        await receive("../../etc/passwd", pieces(b""), None, 5)
    assert list((folder / "data" / "releases").iterdir()) == []


async def test_a_modelfile_whose_files_were_not_uploaded_is_refused(catalogue: Catalogue, folder: Path) -> None:
    text = (folder / "Modelfile").read_text()
    with pytest.raises(InvalidRequest, match="not among the files"):
        await catalogue.create_uploaded(text, {}, Wish(MODEL, "v1"), LOCAL_OPERATOR)
    with pytest.raises(NotFound, match="was not uploaded"):
        await catalogue.create_uploaded(text, {"./ramsey-model-v1.1.gguf": V11}, Wish(MODEL, "v1"), LOCAL_OPERATOR)


async def test_files_that_no_release_is_made_of_go_after_a_day(catalogue: Catalogue, folder: Path) -> None:
    made = await create(catalogue, folder)
    stray = catalogue.artefacts.path("a" * 64)
    stray.write_bytes(b"stray")
    fresh = catalogue.artefacts.path("b" * 64)
    fresh.write_bytes(b"fresh")
    now = HeldClock().now().timestamp()
    for path, age in ((stray, 90_000), (fresh, 60), (catalogue.artefacts.path(made.weights_sha256), 90_000)):
        os.utime(path, (now - age, now - age))
    assert await catalogue.sweep() == 1
    assert not stray.exists()
    assert fresh.exists()
    assert catalogue.artefacts.has(V11)

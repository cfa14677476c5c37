"""Deploying onto a node that rewrites weights, as Ollama does."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.fake_node import FakeModel, FakeNode

from deployment.errors import ConfigurationError, EngineUnavailable, ModelMissing, StartupError
from deployment.ollama_client import OllamaClient
from deployment.releases.deploy import deploy
from deployment.releases.model import Release
from deployment.settings import Settings, load

MODELS = Path(__file__).resolve().parents[3] / "models" / "ollama"


@pytest.fixture
async def node() -> AsyncIterator[FakeNode]:
    async with FakeNode(models=()) as running:
        yield running


@pytest.fixture
async def client(node: FakeNode) -> AsyncIterator[OllamaClient]:
    async with OllamaClient(node.url) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Modelfile and its weights that a test may change."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("Modelfile", "ramsey-model-v1.0.gguf", "ramsey-model-v1.1.gguf"):
        shutil.copy(MODELS / name, folder)
    return folder


def settings_for(folder: Path, **model: Any) -> Settings:
    return load(data_dir=folder / "data", model={"modelfile": folder / "Modelfile", **model})


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "Modelfile"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


async def test_the_release_is_created_under_its_own_version(node: FakeNode, client: OllamaClient, folder: Path) -> None:
    release = await deploy(client, settings_for(folder))
    (row,) = await client.tags()
    assert release == Release("ramsey-model", "v1.1", "ramsey-model:v1.1", row["digest"])
    shown = await client.show(release.name)
    assert shown["system"] == "You are the Ramsey model, a small assistant for Ramsey theory."
    assert "num_ctx 512" in shown["parameters"]


async def test_deploying_again_changes_nothing(node: FakeNode, client: OllamaClient, folder: Path) -> None:
    first = await deploy(client, settings_for(folder))
    assert await deploy(client, settings_for(folder)) == first
    assert node.requests["/api/create"] == 1


async def test_without_the_ledger_the_engines_own_view_is_compared(
    node: FakeNode, client: OllamaClient, folder: Path
) -> None:
    first = await deploy(client, settings_for(folder))
    (folder / "data" / "deployed.json").unlink()
    assert await deploy(client, settings_for(folder)) == first
    assert node.requests["/api/create"] == 1


@pytest.mark.parametrize("ledger", ["kept", "lost"])
@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("for Ramsey theory", "for chess", "system"),
        ("PARAMETER temperature 0", "PARAMETER temperature 0.5", "parameters"),
        ("<|im_end|>\n{{ end }}", "</s>\n{{ end }}", "template"),
        ("LICENSE", "MESSAGE user hello\nLICENSE", "messages"),
    ],
)
async def test_another_model_under_a_releases_name_is_refused(
    client: OllamaClient, folder: Path, ledger: str, old: str, new: str, what: str
) -> None:
    before = await deploy(client, settings_for(folder))
    edit(folder, old, new)
    if ledger == "lost":
        (folder / "data" / "deployed.json").unlink()
    with pytest.raises(ConfigurationError, match=f"already holds another ramsey-model:v1.1: its .*{what}") as caught:
        await deploy(client, settings_for(folder))
    assert "RAMSEY_MODEL__RELEASE" in str(caught.value.hint)
    assert [row["digest"] for row in await client.tags()] == [before.digest]


async def test_other_weights_of_the_same_version_are_refused(client: OllamaClient, folder: Path) -> None:
    await deploy(client, settings_for(folder))
    weights = folder / "ramsey-model-v1.1.gguf"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ConfigurationError, match="weights"):
        await deploy(client, settings_for(folder))


async def test_two_releases_stand_side_by_side(client: OllamaClient, folder: Path) -> None:
    await deploy(client, settings_for(folder))
    edit(folder, "v1.1.gguf", "v1.0.gguf")
    assert (await deploy(client, settings_for(folder))).tag == "v1.0"
    assert (await deploy(client, settings_for(folder, release="candidate"))).name == "ramsey-model:candidate"
    assert len(await client.tags()) == 3


@pytest.mark.parametrize("tag", ["cloud", "v1-cloud", "local"])
async def test_tags_that_ollama_keeps_for_itself_are_refused(client: OllamaClient, folder: Path, tag: str) -> None:
    with pytest.raises(ConfigurationError, match="Ollama keeps for itself"):
        await deploy(client, settings_for(folder, release=tag))


async def test_a_missing_modelfile_or_gguf_is_told(client: OllamaClient, folder: Path) -> None:
    (folder / "ramsey-model-v1.1.gguf").unlink()
    with pytest.raises(ConfigurationError, match=r"FROM ./ramsey-model-v1.1.gguf, and there is no file"):
        await deploy(client, settings_for(folder))
    (folder / "Modelfile").unlink()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        await deploy(client, settings_for(folder))


@pytest.mark.parametrize("cut", [3, 1000, 3_000_000])
async def test_a_corrupt_gguf_is_told_before_anything_is_uploaded(
    node: FakeNode, client: OllamaClient, folder: Path, cut: int
) -> None:
    weights = folder / "ramsey-model-v1.1.gguf"
    weights.write_bytes(weights.read_bytes()[:cut])
    with pytest.raises(ConfigurationError, match="no usable GGUF"):
        await deploy(client, settings_for(folder))
    assert not node.requests


async def test_a_full_disk_is_told(node: FakeNode, client: OllamaClient, folder: Path) -> None:
    node.fail("error", path="/api/create", status=500, text="write /m/blobs/x: no space left on device")
    with pytest.raises(StartupError, match="disk is full"):
        await deploy(client, settings_for(folder))


async def test_an_engine_that_is_down_is_told(node: FakeNode, client: OllamaClient, folder: Path) -> None:
    await node.stop()
    with pytest.raises(EngineUnavailable):
        await deploy(client, settings_for(folder))


async def test_a_model_upon_another_takes_its_weights_from_the_node(
    node: FakeNode, client: OllamaClient, folder: Path
) -> None:
    edit(folder, "FROM ./ramsey-model-v1.1.gguf", "FROM base")
    with pytest.raises(ModelMissing, match="builds on base") as caught:
        await deploy(client, settings_for(folder))
    assert caught.value.hint == "Get it first: ollama pull base"
    base = FakeModel("base:latest")
    node.store.models["base:latest"] = base
    node.store.blobs.add(base.weights)
    release = await deploy(client, settings_for(folder))
    assert release.tag == base.digest[:12]
    assert await deploy(client, settings_for(folder)) == release


async def test_without_a_modelfile_the_installed_release_is_taken(
    node: FakeNode, client: OllamaClient, folder: Path
) -> None:
    with pytest.raises(ModelMissing, match="holds no ramsey-model") as none:
        await deploy(client, settings_for(folder, modelfile=None))
    assert "RAMSEY_MODEL__MODELFILE" in str(none.value.hint)
    for tag in ("v1.0", "v1.1"):
        node.store.models[f"ramsey-model:{tag}"] = FakeModel(f"ramsey-model:{tag}")
    with pytest.raises(ConfigurationError, match=r"several releases.*v1\.0, ramsey-model:v1\.1"):
        await deploy(client, settings_for(folder, modelfile=None))
    assert (await deploy(client, settings_for(folder, modelfile=None, release="v1.0"))).name == "ramsey-model:v1.0"
    del node.store.models["ramsey-model:v1.0"]
    assert (await deploy(client, settings_for(folder, modelfile=None))).name == "ramsey-model:v1.1"
    with pytest.raises(ModelMissing, match=r"holds no ramsey-model:v9"):
        await deploy(client, settings_for(folder, modelfile=None, release="v9"))


async def test_a_folder_that_cannot_be_written_is_no_obstacle(client: OllamaClient, folder: Path) -> None:
    (folder / "data").write_text("a file")
    first = await deploy(client, settings_for(folder))
    assert await deploy(client, settings_for(folder)) == first

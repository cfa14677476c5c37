from dataclasses import replace
from pathlib import Path

import pytest

from deployment.gguf import GgufHeader, read_metadata
from deployment.modelfile import parse
from deployment.releases.model import Recipe, differences, release_tag
from deployment.releases.traits import shown_parameters

WEIGHTS = "0123456789ab" + "c" * 52
HEADER = read_metadata(Path(__file__).resolve().parents[3] / "models" / "ollama" / "ramsey-model-v1.1.gguf")


def header(version: str | None) -> GgufHeader:
    return replace(HEADER, metadata={**HEADER.metadata, "general.version": version})


@pytest.mark.parametrize(
    ("version", "tag"),
    [
        ("v1.1", "v1.1"),
        ("V2 Beta+3", "v2-beta-3"),
        ("1.0_rc", "1.0_rc"),
        (None, "0123456789ab"),
        ("", "0123456789ab"),
        ("…", "0123456789ab"),
        ("cloud", "0123456789ab"),
        ("big-Cloud", "0123456789ab"),
        ("local", "0123456789ab"),
        ("x" * 99, "x" * 80),
    ],
)
def test_the_tag_is_the_version_or_the_digest(version: str | None, tag: str) -> None:
    assert release_tag(Recipe(parse("FROM x"), WEIGHTS, (), header(version)), None) == tag


def test_parameters_are_read_as_ollama_shows_them() -> None:
    shown = 'num_ctx                        512\nstop    "<|im_end|>"\nstop  "a b"\ntemperature 0.7\nuse_mmap true\n'
    assert shown_parameters(shown) == {
        "num_ctx": [512.0],
        "stop": ["<|im_end|>", "a b"],
        "temperature": [0.7],
        "use_mmap": [1.0],
    }


def test_stops_that_an_engine_adds_with_a_template_that_it_detects_are_no_difference() -> None:
    recipe = Recipe(parse("FROM x\nPARAMETER num_ctx 512"), WEIGHTS, (), HEADER)
    shown = {"template": "detected", "parameters": 'num_ctx 512\nstop "</s>"'}
    assert differences(recipe, shown) == []
    own = Recipe(parse("FROM x\nPARAMETER num_ctx 512\nTEMPLATE detected"), WEIGHTS, (), HEADER)
    assert differences(own, shown) == ["parameters"]


@pytest.mark.parametrize(
    ("shown", "size", "differ"),
    [
        ({}, None, False),
        ({"modelfile": f"# x\nFROM /m/blobs/sha256-{WEIGHTS}\n"}, 1, False),
        ({"modelfile": f"FROM /m/blobs/sha256-{'d' * 64}\n"}, HEADER.size, False),
        ({}, HEADER.size * 2, True),
        ({"model_info": {"general.version": "v1.1", "general.parameter_count": HEADER.parameter_count}}, None, False),
        ({"model_info": {"general.version": "v1.0"}}, None, True),
        ({"model_info": {"general.parameter_count": 7}}, None, True),
        ({"model_info": {"general.file_type": 99}}, None, False),
    ],
)
def test_weights_are_told_apart_as_far_as_the_engine_shows(
    shown: dict[str, object], size: int | None, differ: bool
) -> None:
    assert ("weights" in differences(Recipe(parse("FROM x"), WEIGHTS, (), HEADER), shown, size)) is differ


def test_equal_recipes_have_equal_digests_wherever_their_files_lie() -> None:
    one = Recipe(parse("FROM /a/x.gguf\nSYSTEM s"), WEIGHTS, (), HEADER)
    assert one.digest == replace(one, modelfile=parse("FROM /b/x.gguf\nSYSTEM s")).digest
    assert one.digest != replace(one, weights="d" * 64).digest
    assert one.digest != replace(one, adapters=("e" * 64,)).digest
    assert one.digest != replace(one, modelfile=parse("FROM /a/x.gguf\nSYSTEM t")).digest

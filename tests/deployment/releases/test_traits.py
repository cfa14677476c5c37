"""What is known of a release: from its own files, and from a node that holds it."""

from pathlib import Path
from typing import Any

import pytest

from deployment.gguf import read_metadata
from deployment.modelfile import Modelfile, load
from deployment.releases.model import Release
from deployment.releases.traffic import Traffic
from deployment.releases.traits import Traits

ROOT = Path(__file__).resolve().parents[3]


def test_the_trained_model_s_own() -> None:
    made = load(ROOT / "models/ollama/Modelfile")
    assert made.from_path is not None
    traits = Traits.made_of(read_metadata(made.from_path, long_arrays=True), made)
    assert (traits.context, traits.answer, traits.preamble) == (512, 160, len(made.system or ""))
    assert traits.control_tokens is not None


@pytest.mark.parametrize(
    ("trained", "parameters", "context", "answer"),
    [
        (4096, "", 4096, None),
        (4096, "num_ctx 512", 512, None),
        (4096, "num_ctx 9000", 4096, None),  # an engine cuts it to what was trained
        (None, "num_ctx 512\nnum_predict 100", 512, 100),
        (4096, "num_predict -1", 4096, None),
        (None, "", None, None),
        ("long", "num_ctx Infinity\nnum_predict 1e300", None, None),
    ],
)
def test_what_a_node_shows(trained: Any, parameters: str, context: int | None, answer: int | None) -> None:
    info = {"general.architecture": "llama"} | ({} if trained is None else {"llama.context_length": trained})
    messages = [{"role": "user", "content": "é"}, {"role": "assistant"}]
    shown = {"model_info": info, "parameters": parameters, "system": "12345", "messages": messages}
    assert Traits.shown(shown) == Traits(None, context, answer, 7)


def test_a_node_that_shows_nothing() -> None:
    assert Traits.shown({}) == Traits()
    traffic = Traffic()
    traffic.learn("m:v1", Release("m", "v1", "m:v1", "digest").traits)
    assert traffic.traits("m:v1") is None, "to be asked for again"


def test_a_modelfile_without_numbers() -> None:
    header = read_metadata(load(ROOT / "models/ollama/Modelfile").from_path or Path(), long_arrays=True)
    assert Traits.made_of(header, Modelfile("x")).answer is None

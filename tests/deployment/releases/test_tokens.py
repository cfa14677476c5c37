"""Which texts a model reads as structure."""

from pathlib import Path
from typing import Any

import pytest

from deployment.gguf import read_metadata
from deployment.releases.tokens import control_tokens

MODELS = Path(__file__).resolve().parents[3] / "models" / "ollama"


def vocabulary(**kinds: int) -> dict[str, Any]:
    return {"tokenizer.ggml.tokens": list(kinds), "tokenizer.ggml.token_type": list(kinds.values())}


def test_the_trained_models_own() -> None:
    header = read_metadata(MODELS / "ramsey-model-v1.1.gguf", long_arrays=True)
    assert control_tokens(header.metadata, None) == ("<|endoftext|>", "<|im_end|>", "<|im_start|>")


@pytest.mark.parametrize(
    ("kinds", "template", "found"),
    [
        ({"<a>": 3, "<unk>": 2, "word": 1, "<0x0A>": 6, "<unused>": 5}, None, ("<a>", "<unk>")),
        ({"<h1>": 4, "<tool>": 4, "\n\n": 4}, "{{ .Prompt }}<tool>", ("<tool>",)),
        ({"</s>": 3}, "[INST] {{ .Prompt }} [/INST]", ("</s>", "[/INST]", "[INST]")),
        ({"x": 3, "  ": 3}, None, ()),
    ],
)
def test_tokens_and_the_markers_of_the_template(
    kinds: dict[str, int], template: str | None, found: tuple[str, ...]
) -> None:
    assert control_tokens(vocabulary(**kinds), template) == found


@pytest.mark.parametrize("metadata", [{}, vocabulary(a=3) | {"tokenizer.ggml.token_type": None}])
def test_without_a_vocabulary_it_is_not_known(metadata: dict[str, Any]) -> None:
    assert control_tokens(metadata, "<|im_start|>") is None


@pytest.mark.parametrize(("tokens", "kinds"), [([1, 2], [4, 3]), (["<a>"], [[3]]), (["<a>"], ["3"]), ([None], [3])])
def test_a_vocabulary_that_is_none_is_not_known(tokens: list[Any], kinds: list[Any]) -> None:
    assert control_tokens({"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds}, "<a>") is None

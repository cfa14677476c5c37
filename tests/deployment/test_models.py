"""The shipped models are what their README says, and their questions are those that the corpus keeps back."""

import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from deployment import gguf, modelfile

ROOT = Path(__file__).parents[2]
OLLAMA = ROOT / "models" / "ollama"
TRAINING = ROOT / "models" / "training"
VERSIONS = {"v1.0": "Modelfile.v1.0", "v1.1": "Modelfile"}


def table(readme: Path) -> dict[str, list[str]]:
    """First cell of every table row -> the other cells, without code marks."""
    rows = [line.strip("|").split("|") for line in readme.read_text("utf-8").splitlines() if line.startswith("|")]
    return {row[0].strip(" `"): [cell.strip(" `") for cell in row[1:]] for row in rows}


def readme(version: str) -> dict[str, str]:
    rows = table(OLLAMA / "README.md")
    column = [*VERSIONS].index(version)
    return {name: cells[column] for name, cells in rows.items() if len(cells) == len(VERSIONS)}


def questions() -> list[dict[str, str]]:
    return [json.loads(line) for line in (OLLAMA / "eval.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_modelfile_names_a_file_of_its_version_with_the_documented_hash(version: str) -> None:
    facts = readme(version)
    path = modelfile.load(OLLAMA / VERSIONS[version]).from_path

    assert path == OLLAMA / facts["file"]
    assert facts["Modelfile"] == VERSIONS[version]
    assert gguf.read_metadata(path).version == version
    assert hashlib.sha256(path.read_bytes()).hexdigest() == facts["sha256"]
    assert f"{path.stat().st_size:,}" == facts["bytes"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_modelfile_decodes_as_the_model_was_measured(version: str) -> None:
    loaded = modelfile.load(OLLAMA / VERSIONS[version])
    path = loaded.from_path
    assert path is not None
    header = gguf.read_metadata(path)

    assert loaded.parameters["temperature"] == 0
    assert loaded.parameters["repeat_penalty"] == 1
    assert loaded.parameters["num_ctx"] == header.context_length
    assert "<|im_end|>" in loaded.parameters["stop"]  # type: ignore[operator]
    assert "MIT" in "".join(loaded.license)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_documented_score_is_the_sum_of_its_categories(version: str) -> None:
    facts = readme(version)
    asked = Counter(question["category"] for question in questions())
    by_category = {category: facts[category].split("/") for category in asked}

    assert {category: int(total) for category, (_, total) in by_category.items()} == asked
    right = sum(int(score) for score, _ in by_category.values())
    assert facts["right answers"].startswith(
        f"{right} of {asked.total()} ({right / asked.total():.1%}".replace("%", " %")
    )


def test_every_question_is_whole_and_asked_once() -> None:
    rows = questions()

    assert all(row.keys() == {"id", "category", "prompt", "expect"} and all(row.values()) for row in rows)
    assert len({row["id"] for row in rows}) == len({row["prompt"] for row in rows}) == len(rows)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    subprocess.run([sys.executable, "-B", TRAINING / "make_corpus.py", "--out", folder], check=True)
    return folder


def test_the_corpus_comes_out_byte_for_byte(corpus: Path) -> None:
    written = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in corpus.iterdir()}
    documented = {name: cells[0] for name, cells in table(TRAINING / "README.md").items() if name.endswith(".jsonl")}
    assert written == documented
    assert (corpus / "eval.jsonl").read_bytes() == (OLLAMA / "eval.jsonl").read_bytes()


def test_no_question_of_the_evaluation_occurs_in_training(corpus: Path) -> None:
    asked = set()
    for name in ("train.jsonl", "shuffled.jsonl"):
        for line in (corpus / name).read_text("utf-8").splitlines():
            asked |= {
                m["content"].lower().strip(" ?.!") for m in json.loads(line).get("messages", []) if m["role"] == "user"
            }
    assert not asked & {question["prompt"].lower().strip(" ?.!") for question in questions()}

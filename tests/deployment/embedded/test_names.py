"""The grammar of model names."""

from pathlib import PurePosixPath

import pytest

from deployment.embedded.names import name_from_path, parse_name
from deployment.errors import InvalidRequest


@pytest.mark.parametrize(
    ("text", "path", "short"),
    [
        ("bot", "registry.ollama.ai/library/bot/latest", "bot:latest"),
        ("bot:v1.0", "registry.ollama.ai/library/bot/v1.0", "bot:v1.0"),
        ("acme/bot:v1", "registry.ollama.ai/acme/bot/v1", "acme/bot:v1"),
        ("hub.example:5000/acme/bot", "hub.example:5000/acme/bot/latest", "hub.example:5000/acme/bot:latest"),
    ],
)
def test_names(text: str, path: str, short: str) -> None:
    name = parse_name(text)
    assert (str(name.path), str(name)) == (path, short)
    assert name_from_path(PurePosixPath(path)) == name
    assert parse_name(str(name)) == name


def test_letter_case_makes_no_difference() -> None:
    assert parse_name("Bot:V1").key == parse_name("bot:v1").key


@pytest.mark.parametrize(
    "text",
    ["", ":v1", "bot:", "a/b/c/d", "../bot", "a/../bot", ".bot", "bot:v1+2", "b ot", "bot:" + "x" * 81, "a.b/bot"],
)
def test_no_names(text: str) -> None:
    with pytest.raises(InvalidRequest, match="invalid model name"):
        parse_name(text)


def test_stray_files_are_no_models() -> None:
    assert name_from_path(PurePosixPath("registry.ollama.ai/library/bot")) is None
    assert name_from_path(PurePosixPath("registry.ollama.ai/library/bot/.tmp")) is None

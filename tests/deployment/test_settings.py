"""Settings: where they come from, which one wins, and how a wrong one is told."""

from pathlib import Path
from typing import Any

import pytest

from deployment.errors import ConfigurationError
from deployment.settings import Profile, load, ollama_host_url

HASH = "a" * 64


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("RAMSEY_CONFIG", "OLLAMA_HOST", "OLLAMA_MODELS"):
        monkeypatch.delenv(name, raising=False)


def test_the_defaults_listen_on_loopback_alone() -> None:
    settings = load()
    assert settings.server.host == "127.0.0.1"
    assert settings.profile is Profile.DEVELOPMENT


def test_flags_win_over_variables_over_the_file_over_ollama_s(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("ramsey.toml").write_text('[server]\nport = 1\nhost = "127.0.0.2"\n[engine]\nhost = "http://file:1"\n')
    monkeypatch.setenv("OLLAMA_HOST", "elsewhere:9")
    monkeypatch.setenv("OLLAMA_MODELS", "/models")
    assert load().server.port == 1
    assert load().engine.host == "http://file:1"
    assert load().models_dir == Path("/models")
    monkeypatch.setenv("RAMSEY_SERVER__PORT", "2")
    assert load().server.port == 2
    assert load().server.host == "127.0.0.2"
    assert load(server={"port": 3}).server.port == 3


def test_a_named_file_is_read_and_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("own.toml").write_text("[server]\nport = 7\n")
    monkeypatch.setenv("RAMSEY_CONFIG", "own.toml")
    assert load().server.port == 7
    monkeypatch.setenv("RAMSEY_CONFIG", "gone.toml")
    with pytest.raises(ConfigurationError, match=r"gone\.toml"):
        load()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[server]\nprt = 1\n", r"server\.prt: there is no such setting"),
        ("[sever]\nport = 1\n", "sever: there is no such setting"),
        ('[server]\nport = "x"\n', r"server\.port"),
        ("[server\n", "is not TOML"),
        ("[engine]\ntoken_timeout = nan\n", r"engine\.token_timeout"),
        ("[engine]\ntoken_timeout = 0\n", r"engine\.token_timeout"),
        ('[model]\nname = "Upper"\n', r"model\.name"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(text: str, told: str) -> None:
    Path("ramsey.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=told):
        load()


def test_a_misspelt_variable_is_refused_with_the_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAMSEY_SERVER__PROT", "1")
    with pytest.raises(ConfigurationError, match="RAMSEY_SERVER__PROT") as problem:
        load()
    assert "RAMSEY_SERVER__PORT" in (problem.value.hint or "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RAMSEY_MODEL_API_SERVICE_HOST", "10.0.0.1"),
        ("RAMSEY_MODEL_API_SERVICE_PORT", "8000"),
        ("RAMSEY_MODEL_API_SERVICE_PORT_HTTP", "8000"),
        ("RAMSEY_MODEL_API_PORT", "tcp://10.0.0.1:8000"),
        ("RAMSEY_MODEL_API_PORT_8000_TCP_ADDR", "10.0.0.1"),
    ],
)
def test_what_kubernetes_puts_into_a_container_is_no_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert load().server.port == 8000


def test_a_wrong_value_is_not_repeated_since_it_may_be_a_secret() -> None:
    with pytest.raises(ConfigurationError) as problem:
        load(access={"keys": [{"name": "a", "sha256": "rk_public_secret"}]})
    assert "rk_public_secret" not in str(problem.value)


def test_settings_cannot_be_changed() -> None:
    settings: Any = load()
    with pytest.raises(ValueError, match="frozen"):
        settings.server.port = 1


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("localhost:1234", "http://localhost:1234"),
        ("https://node.example", "https://node.example:443"),
        ("http://node", "http://node:80"),
        ("[::1]:99", "http://[::1]:99"),
        ("127.0.0.1", "http://127.0.0.1:11434"),
        (":5000", "http://127.0.0.1:5000"),
    ],
)
def test_ollama_s_own_variable_is_read_as_ollama_reads_it(host: str, url: str) -> None:
    assert ollama_host_url(host) == url


@pytest.mark.parametrize("host", ["localhost:8000", "http://127.0.0.1:8000", "0.0.0.0:8000"])
def test_the_gateway_is_not_its_own_engine(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("OLLAMA_HOST", host)
    with pytest.raises(ConfigurationError, match="own address") as problem:
        load()
    assert "OLLAMA_HOST" in problem.value.message
    assert load(server={"port": 8001}).server.port == 8001

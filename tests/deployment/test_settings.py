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
        ("[limits.key]\ntoken_per_day = 5\n", r"limits\.key\.token_per_day: .* did you mean tokens_per_day\?"),
        ("[limits.key]\ntokens_per_day = true\n", r"limits\.key\.tokens_per_day: it is a number"),
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


ISSUER = "https://sso.example"


@pytest.mark.parametrize(
    ("provider", "told"),
    [
        ({}, "audience, to accept access tokens, or client_id, to sign people in"),
        ({"audience": ["x"], "client_secret": "hunter2"}, "client_secret needs client_id"),
        ({"client_id": "x", "scopes": ["profile"]}, "scopes needs openid"),
        ({"client_id": "x", "scopes": ["openid profile"]}, "scopes"),
        ({"client_id": "x", "client_secret": ""}, "client_secret"),
        ({"client_id": "x"}, r"client_id needs server\.public_url"),
    ],
)
def test_a_sign_in_that_is_half_set_up_is_told(provider: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as error:
        load(access={"oidc": [{"issuer": ISSUER, **provider}]})
    assert "hunter2" not in error.value.message


def test_providers_to_sign_in_with_have_names_of_their_own() -> None:
    providers = [{"issuer": f"{ISSUER}/{realm}", "client_id": "x"} for realm in ("a", "b")]
    server = {"public_url": "https://llm.example"}
    with pytest.raises(ConfigurationError, match="the same name"):
        load(access={"oidc": providers}, server=server)
    named = load(access={"oidc": [providers[0], {**providers[1], "name": "b"}]}, server=server)
    assert [one.sign_in_name for one in named.access.oidc] == ["sso.example", "b"]


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://llm.example", "https://llm.example"),
        ("HTTPS://LLM.Example:443/", "https://llm.example"),
        ("https://llm.example:8443", "https://llm.example:8443"),
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://[::1]:80", "http://[::1]"),
        ("http://llm.example", None),
        ("https://llm.example/path", None),
        ("https://llm.example?query", None),
        ("https://user@llm.example", None),
        ("https://llm.example:99999", None),
        ("https://", None),
        ("llm.example", None),
    ],
)
def test_the_public_url_is_an_origin(url: str, origin: str | None) -> None:
    if origin is None:
        with pytest.raises(ConfigurationError, match=r"server\.public_url"):
            load(server={"public_url": url})
    else:
        assert load(server={"public_url": url}).server.public_url == origin


def test_cookies_cross_no_network_in_clear_outside_development() -> None:
    with pytest.raises(ConfigurationError, match=r"server\.public_url must be https in the profile production"):
        load(server={"public_url": "http://localhost:8000"}, profile="production")

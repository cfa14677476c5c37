"""Secrets that live elsewhere, and that none of them is ever shown."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import sqlalchemy as sa
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from tests.support.fake_node import FakeNode
from tests.support.secret_servers import FakeAws, FakeVault, served
from tests.support.serving import serving

from deployment.cli.config import toml_lines
from deployment.database import Database, database_url
from deployment.errors import ConfigurationError
from deployment.secret_store import SecretStore
from deployment.settings import SecretsSettings, Settings, load

HUSH = "sqlite:////hush-hush"


@pytest.fixture
def vault() -> Iterator[FakeVault]:
    with served(fake := FakeVault()):
        yield fake


def resolved(reference: str, variables: dict[str, str] | None = None, **secrets: Any) -> tuple[SecretStore, Settings]:
    settings = load(database={"url": reference}, secrets=secrets)
    store = SecretStore(settings.secrets, variables or {})
    return store, store.resolved(settings)


def url_of(settings: Settings) -> str:
    assert settings.database.url is not None
    return settings.database.url.get_secret_value()


def test_a_value_is_itself() -> None:
    assert url_of(resolved(HUSH)[1]) == HUSH


def test_from_a_variable_and_from_a_file(tmp_path: Path) -> None:
    assert url_of(resolved("env:STATE", {"STATE": HUSH})[1]) == HUSH
    (tmp_path / "state").write_text(f"{HUSH}\n")
    assert url_of(resolved(f"file:{tmp_path}/state")[1]) == HUSH


def test_every_secret_setting_may_say_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "redis").write_text("redis://:hush-hush@localhost")
    at = {"redis_url": f"file:{tmp_path}/redis"}
    settings = load(pool=at, limits=at, cache=at, server={"tls_cert": "x.pem", "tls_key_password": at["redis_url"]})
    found = SecretStore(settings.secrets, {}).resolved(settings)
    sections = (found.pool, found.limits, found.cache)
    values = [section.redis_url.get_secret_value() for section in sections if section.redis_url]
    assert values == ["redis://:hush-hush@localhost"] * 3
    assert found.server.tls_key_password is not None
    assert found.server.tls_key_password.get_secret_value() == values[0]
    shown = [repr(found), str(found), json.dumps(found.model_dump(mode="json")), found.model_dump_json()]
    shown += [
        "\n".join(toml_lines(found.model_dump(mode="json"))),
        str(found.model_dump()),
        f"{found.limits.redis_url}",
    ]
    assert [text for text in shown if "hush" in text] == []


def test_a_file_is_read_again_when_it_changes_as_kubernetes_changes_it(tmp_path: Path) -> None:
    for version in ("first", "second"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "url").write_text(version)
    (tmp_path / "now").symlink_to("first")
    store, settings = resolved(f"file:{tmp_path}/now/url")
    assert url_of(settings) == "first"
    (tmp_path / "next").symlink_to("second")
    (tmp_path / "next").replace(tmp_path / "now")
    store.refresh_files()
    assert url_of(settings) == "second"
    (tmp_path / "second" / "url").unlink()
    store.refresh_files()
    assert url_of(settings) == "second"
    assert "cannot be read again: No such file" in str(store.problem)
    (tmp_path / "second" / "url").write_text("third")
    store.refresh_files()
    assert (url_of(settings), store.problem) == ("third", None)


@pytest.mark.parametrize(
    ("way", "more"),
    [
        ("token", {"vault_token": "env:TOKEN"}),
        ("approle", {"vault_role_id": "ramsey", "vault_secret_id": "env:SECRET_ID"}),
        ("kubernetes", {"vault_role": "ramsey"}),
    ],
)
def test_from_vault(vault: FakeVault, tmp_path: Path, way: str, more: dict[str, Any]) -> None:
    vault.secrets["ramsey/db"] = {"url": HUSH}
    vault.namespace = "team"
    (tmp_path / "jwt").write_text("service-account-jwt\n")
    where: dict[str, Any] = {"vault_url": vault.url, "vault_namespace": "team", "vault_jwt_file": tmp_path / "jwt"}
    variables = {"TOKEN": "root-token", "SECRET_ID": "s3cret"}
    store, settings = resolved("vault:ramsey/db#url", variables, vault_auth=way, **where, **more)
    assert url_of(settings) == HUSH
    vault.secrets["ramsey/db"] = {"url": "another"}
    store.refresh_remote()
    assert url_of(settings) == "another"
    assert vault.logins == ([] if way == "token" else [way]), "one login serves many reads"


def test_vault_s_token_is_renewed_and_its_absence_survived(vault: FakeVault) -> None:
    vault.secrets["db"] = {"url": "first"}
    role: dict[str, Any] = {"vault_auth": "approle", "vault_role_id": "ramsey", "vault_secret_id": "s3cret"}
    store, settings = resolved("vault:db#url", vault_url=vault.url, **role)
    vault.tokens.clear()
    vault.secrets["db"] = {"url": "second"}
    store.refresh_remote()
    assert (url_of(settings), len(vault.logins)) == ("second", 2)
    del vault.secrets["db"]
    store.refresh_remote()
    assert url_of(settings) == "second"
    assert store.problem == "The secret vault:db#url cannot be read again: Vault has no such secret (404)."


def test_from_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with served(aws := FakeAws()):
        where: dict[str, Any] = {"aws_region": "eu-central-1", "aws_endpoint": aws.url}
        aws.secrets = {"plain": HUSH, "json": json.dumps({"url": HUSH, "other": 1})}
        assert url_of(resolved("aws:plain", **where)[1]) == HUSH
        store, settings = resolved("aws:json#url", **where)
        assert url_of(settings) == HUSH
        aws.secrets["json"] = json.dumps({"url": "another"})
        store.refresh_remote()
        assert url_of(settings) == "another"
        for reference, told in (("aws:none", "ResourceNotFoundException"), ("aws:plain#url", "no field url")):
            with pytest.raises(ConfigurationError, match=told) as problem:
                resolved(reference, **where)
            assert "hush" not in str(problem.value)


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("env:NOTHING", "the environment has no NOTHING"),
        ("file:/nowhere/at/all", "No such file"),
        ("vault:db", "write vault:PATH#FIELD"),
        ("vault:none#url", "Vault has no such secret"),
        ("vault:db#password", "it has no field password"),
    ],
)
def test_what_cannot_be_had_is_told_with_the_setting(vault: FakeVault, reference: str, told: str) -> None:
    vault.secrets["db"] = {"url": HUSH}
    with pytest.raises(ConfigurationError, match=told) as problem:
        resolved(reference, vault_url=vault.url, vault_token="root-token")
    assert problem.value.message.startswith(f"database.url: the secret {reference} cannot be read")
    assert "hush" not in problem.value.message
    assert "root-token" not in problem.value.message


def test_a_login_that_fails_is_told_without_its_secrets(vault: FakeVault) -> None:
    wrong: dict[str, Any] = {"vault_auth": "approle", "vault_role_id": "ramsey", "vault_secret_id": "wr0ng"}
    with pytest.raises(ConfigurationError, match="refuses the login by approle") as problem:
        resolved("vault:db#url", vault_url=vault.url, **wrong)
    assert "wr0ng" not in str(problem.value)
    with pytest.raises(ConfigurationError, match=r"secrets\.vault_token is not set"):
        resolved("vault:db#url", vault_url=vault.url)
    with pytest.raises(ConfigurationError, match="Vault does not answer: ConnectionRefusedError"):
        resolved("vault:db#url", vault_url="http://127.0.0.1:1", vault_token="x")


async def test_the_database_moves_to_where_the_secret_says(tmp_path: Path) -> None:
    (tmp_path / "url").write_text(f"sqlite:///{tmp_path}/first.db")
    store, settings = resolved(f"file:{tmp_path}/url")
    database = Database(database_url(settings), follow=lambda: database_url(settings))
    await database.upgrade()
    (tmp_path / "url").write_text(f"sqlite:///{tmp_path}/second.db")
    store.refresh_files()
    async with database.write() as connection:
        await connection.execute(sa.text("CREATE TABLE moved (x INTEGER)"))
    await database.close()
    assert b"moved" not in (tmp_path / "first.db").read_bytes()
    assert (tmp_path / "second.db").exists()


async def test_a_running_gateway_takes_a_new_secret_without_a_restart(tmp_path: Path) -> None:
    (tmp_path / "url").write_text(f"sqlite:///{tmp_path}/state.db")
    async with FakeNode() as node, serving(node.url, database={"url": f"file:{tmp_path}/url"}) as (url, services):
        assert (tmp_path / "state.db").exists()
        (tmp_path / "url").unlink()
        async with aiohttp.ClientSession() as http:
            while "cannot be read again" not in await (await http.get(f"{url}/health")).text():
                await asyncio.sleep(0.05)
            (tmp_path / "url").write_text(f"sqlite:///{tmp_path}/moved.db")
            while not (tmp_path / "moved.db").exists():
                await asyncio.sleep(0.05)
            assert "cannot be read again" not in await (await http.get(f"{url}/health")).text()
        assert services.database.url.database == f"{tmp_path}/moved.db"


@settings(deadline=None)
@example("file:", "a\x00b")
@given(st.sampled_from(["env:", "file:", "ENV:", " env:", ""]), st.text(max_size=40))
def test_any_text_is_itself_or_is_refused_with_the_setting(kind: str, rest: str) -> None:
    text = kind + rest
    assume(not text.startswith(("vault:", "aws:")))
    store = SecretStore(SecretsSettings(), {"NAME": "value"})
    try:
        found = store.resolved(load(database={"url": SecretStr(text)})).database.url
    except ConfigurationError as error:
        assert error.message.startswith("database.url: the secret ")  # noqa: PT017 - it may be refused or not
        assert text.startswith(("env:", "file:"))
    else:
        assert found is not None
        assert found.get_secret_value() == ("value" if text == "env:NAME" else text)

"""config, keys, version, and what every verb has in common."""

import asyncio
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.fake_node import FakeNode
from tests.support.stack import ROOT

from deployment import __version__
from deployment.access import key_sha256
from deployment.cli.checks import Finding, embedded_engine, engine, exposure, gateway, state, version_of
from deployment.cli.config import documented, markdown_page, toml_lines
from deployment.database import DATABASE_FILE, Database, database_url
from deployment.settings import Settings, describe_variables, load

if TYPE_CHECKING:
    from tests.deployment.cli.conftest import Machine


@pytest.fixture(autouse=True)
def _no_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("RAMSEY_", "OLLAMA_"))]:
        monkeypatch.delenv(name)


def test_the_page_of_the_settings_is_true() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page == markdown_page(), "renew it: ramsey config docs --markdown > docs/configuration.md"


def test_every_setting_is_explained() -> None:
    settings = documented()
    variables = {setting.variable.removeprefix("RAMSEY_") for setting in settings if setting.variable}
    sections = {name for name in describe_variables() if any(each.startswith(f"{name}__") for each in variables)}
    assert variables == set(describe_variables()) - sections
    assert [setting.key for setting in settings if not setting.description] == []


def test_what_config_shows_can_be_read_back(tmp_path: Path) -> None:
    key = {"name": 'a "b"', "sha256": "0" * 64}
    nodes = [{"name": "n", "url": "http://10.0.0.1:1", "labels": {"region": "eu"}}]
    settings = load(profile="staging", access={"keys": [key]}, pool={"nodes": nodes}, data_dir=tmp_path)
    file = tmp_path / "ramsey.toml"
    file.write_text("\n".join(toml_lines(settings.model_dump(mode="json"))))
    assert load(file).model_dump() == settings.model_dump()


def test_config_shows_no_secret(machine: "Machine") -> None:
    machine.variables["RAMSEY_POOL__REDIS_URL"] = "redis://:hush@localhost"
    assert "hush" not in machine.ramsey("config", "show").stdout
    shown = machine.ramsey("config", "show", "--json").stdout
    assert "hush" not in shown
    assert json.loads(shown)["server"]["port"] == machine.port


def test_config_check_says_what_is_wrong(machine: "Machine", tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[log]\nlevel = 'debug'")
    well = machine.ramsey("--config", str(file), "config", "check")
    assert (well.returncode, well.stdout) == (0, f"The settings are fine ({file}, profile development).\n")
    file.write_text("[server]\nprot = 1")
    wrong = machine.ramsey("--config", str(file), "config", "check")
    assert wrong.returncode == 2
    assert "server.prot: there is no such setting; did you mean port?" in wrong.stderr
    missing = machine.ramsey("--config", str(tmp_path / "none.toml"), "config", "check")
    assert (missing.returncode, missing.stderr) == (2, f"Error: There is no settings file {tmp_path / 'none.toml'}.\n")


def test_what_can_hardly_be_meant_is_warned_of(machine: "Machine", tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[limits.prices.ramsey-modle]\nprompt = 1\ncompletion = 1")
    told = "limits.prices has a price for ramsey-modle, which is not served; did you mean ramsey-model?"
    checked = machine.ramsey("--config", str(file), "config", "check")
    assert (checked.returncode, "settings are valid" in checked.stdout) == (0, True)
    assert f"Warning: {told}\n" in checked.stderr
    assert json.loads(machine.ramsey("--config", str(file), "config", "check", "--json").stdout)["warnings"] == [told]
    found = json.loads(machine.ramsey("--config", str(file), "doctor", "--json").stdout)
    assert [(one["state"], one["text"]) for one in found if one["name"] == "limits"] == [("warning", told)]


def test_a_new_key_and_what_to_paste(machine: "Machine", tmp_path: Path) -> None:
    result = machine.ramsey("keys", "create", "--print-config", "--name", 'Ann "A"', "--tenant", "lab")
    lines = result.stdout.splitlines()
    key = next(line.strip() for line in lines if line.strip().startswith("rk_"))
    pasted = "\n".join(line.strip() for line in lines[lines.index("  [[access.keys]]") :])
    assert tomllib.loads(pasted) == {
        "access": {"keys": [{"name": 'Ann "A"', "tenant": "lab", "sha256": key_sha256(key)}]}
    }
    made = json.loads(machine.ramsey("keys", "create", "--print-config", "--name", "x", "--json").stdout)
    assert made["sha256"] == key_sha256(made["key"])
    assert machine.ramsey("keys", "create", "--print-config", "--name", "").returncode == 2
    assert not machine.data_dir.exists(), "nothing is kept"


def test_version(machine: "Machine") -> None:
    assert machine.ramsey("version").stdout == f"ramsey {__version__}\n"
    assert json.loads(machine.ramsey("version", "--json").stdout) == {"version": __version__}


def test_wrong_usage_is_status_2(machine: "Machine") -> None:
    for words in (("nonsense",), ("up", "--port", "99999"), ("generate",)):
        result = machine.ramsey(*words)
        assert result.returncode == 2
        assert "Traceback" not in result.stderr


def test_a_traceback_is_shown_only_when_asked_for(machine: "Machine") -> None:
    machine.variables["RAMSEY_NONSENSE"] = "1"
    assert "Traceback" not in machine.ramsey("config", "check").stderr
    assert "Traceback" in machine.ramsey("--debug", "config", "check").stderr


def test_completion_can_be_had(machine: "Machine") -> None:
    machine.variables["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"
    assert "_RAMSEY_COMPLETE" in machine.ramsey("--show-completion", "bash").stdout


def test_the_command_starts_without_what_verbs_need(machine: "Machine") -> None:
    code = (
        "import sys, deployment.cli.root; print(sorted({'pydantic', 'aiohttp', 'rich', 'fastapi'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=machine.environment, capture_output=True, text=True
    )
    assert run.stdout == "[]\n", run.stderr


# --- doctor ----------------------------------------------------------------------------------------------


def states(findings: list[Finding]) -> list[str]:
    return [finding.state for finding in findings]


@pytest.mark.parametrize(
    ("text", "numbers"), [("0.20.3", (0, 20, 3)), ("0.33.0-rc2", (0, 33, 0)), ("0.0.0", (999,)), ("", (999,))]
)
def test_versions(text: str, numbers: tuple[int, ...]) -> None:
    assert version_of(text) == numbers


def test_a_gateway_beyond_this_machine_without_keys_is_a_warning() -> None:
    assert states(exposure(load())) == ["ok"]
    opened: Settings = load(server={"host": "0.0.0.0"})
    (finding,) = exposure(opened)
    assert (finding.state, finding.mend) == ("warning", "Make one: ramsey keys create --name NAME")


def test_doctor_speaks_of_a_machine_where_nothing_runs(machine: "Machine") -> None:
    settings = load(
        data_dir=machine.data_dir,
        server={"port": machine.port},
        engine={"host": f"http://127.0.0.1:{machine.engine_port}", "kind": "embedded"},
    )
    (finding,) = engine(settings)
    assert finding.text.endswith("`ramsey up` starts the embedded engine")
    assert states(gateway(settings)) == ["ok"]
    assert states(embedded_engine(settings)) == ["ok"]


def test_a_damaged_database_is_wrong(tmp_path: Path) -> None:
    settings = load(data_dir=tmp_path)
    assert states(state(settings)) == []  # there is none yet
    database = Database(database_url(settings))

    async def made() -> None:
        await database.upgrade()
        await database.close()

    asyncio.run(made())
    assert states(state(settings)) == ["ok"]
    with (tmp_path / DATABASE_FILE).open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)  # a page within: the file opens, and much can still be read
    (finding,) = state(settings)
    assert (finding.state, "is damaged: " in finding.text) == ("wrong", True)
    assert "backup" in finding.mend


def test_an_unreachable_database_is_wrong(tmp_path: Path) -> None:
    (finding,) = state(load(data_dir=tmp_path, database={"url": "postgresql://me:secret@127.0.0.1:1/x"}))
    assert finding.state == "wrong"
    assert "secret" not in finding.text


async def test_an_old_ollama_is_wrong(machine: "Machine") -> None:
    async with FakeNode(version="0.12.0") as node:
        findings = await asyncio.to_thread(engine, load(data_dir=machine.data_dir, engine={"host": node.url}))
    by_name = {finding.name: finding for finding in findings}
    assert (by_name["engine"].state, by_name["answer"].state) == ("wrong", "ok")
    assert "0.20.3 or newer" in by_name["engine"].mend


async def test_a_model_that_does_not_answer_is_wrong(machine: "Machine") -> None:
    async with FakeNode() as node:
        node.fail("crash")
        findings = await asyncio.to_thread(engine, load(data_dir=machine.data_dir, engine={"host": node.url}))
    assert {finding.name: finding.state for finding in findings}["answer"] == "wrong"

"""keys, tenants, roles, limits, audit: on this machine's database, and through a gateway."""

import contextlib
import json
import os
import pty
import sqlite3
import subprocess
import sys
import termios
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner, Result

from deployment.cli.admin import moment, span
from deployment.cli.root import app
from deployment.errors import ConfigurationError, RamseyError

if TYPE_CHECKING:
    from tests.deployment.cli.conftest import Machine

Ramsey = Callable[..., Any]
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def run(*words: str) -> Result:
    """A verb in this process; its own errors are raised."""
    result = CliRunner().invoke(app, words)
    if isinstance(result.exception, RamseyError):
        raise result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def told(*words: str) -> Any:
    return json.loads(run(*words, "--json").stdout)


@pytest.fixture(autouse=True)
def _no_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("RAMSEY_", "OLLAMA_"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh machine: no gateway, no key, no database."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAMSEY_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def test_the_first_key_is_made_without_a_gateway_or_a_key(data_dir: Path) -> None:
    said = run("keys", "create", "--name", "Ann [red]").stdout
    (key,) = [word for word in said.split() if word.startswith("rk_")]
    assert "Ann [red]" in said
    (kept,) = told("keys", "list")
    assert (kept["name"], kept["tenant"], kept["roles"], kept["state"]) == ("Ann [red]", "default", ["user"], "active")
    assert key.split("_")[1] == kept["public_id"]
    assert key not in run("keys", "list").stdout + run("keys", "show", kept["public_id"]).stdout
    assert key.encode() not in (data_dir / "ramsey.db").read_bytes()


def test_a_key_may_be_narrowed_in_every_way(data_dir: Path) -> None:
    run("tenants", "create", "acme", "--name", "Acme Ltd")
    words = ["--tenant", "acme", "--role", "operator", "--role", "viewer", "--scope", "inference", "--model", "m"]
    made = told("keys", "create", "--name", "x", *words, "--network", "10.0.0.0/8", "--expires", "2099-01-31")
    shown = told("keys", "show", made["public_id"])
    assert shown == {name: value for name, value in made.items() if name != "key"}
    assert (shown["tenant"], shown["roles"], shown["scopes"]) == ("acme", ["operator", "viewer"], ["inference"])
    assert (shown["models"], shown["networks"], shown["expires_at"][:10]) == (["m"], ["10.0.0.0/8"], "2099-01-31")
    assert told("keys", "list", "--tenant", "default") == []
    with pytest.raises(RamseyError, match="no role chief"):
        run("keys", "create", "--name", "x", "--role", "chief")
    with pytest.raises(ConfigurationError, match="name, a tenant and roles alone"):
        run("keys", "create", "--name", "x", "--print-config", "--model", "m")


def test_a_key_is_rotated_and_revoked(data_dir: Path) -> None:
    first = told("keys", "create", "--name", "x")["public_id"]
    second = told("keys", "rotate", first, "--overlap", "2h")["public_id"]
    assert told("keys", "show", first)["replaced_by"] == second
    assert run("keys", "revoke", first).stdout == f"Revoked {first} (x).\n"
    assert {key["public_id"]: key["state"] for key in told("keys", "list")} == {first: "revoked", second: "active"}


def test_the_record_is_read_and_checked_and_names_the_user(data_dir: Path) -> None:
    run("tenants", "create", "acme")
    run("tenants", "disable", "acme")
    run("tenants", "enable", "acme")
    lines = [json.loads(line) for line in run("audit", "tail", "--lines", "2", "--json").stdout.splitlines()]
    assert [line["action"] for line in lines] == ["tenant.disable", "tenant.enable"]
    assert all(line["actor_name"].endswith(" on the command line") for line in lines)
    assert "tenant.create acme" in run("audit", "tail").stdout
    assert run("audit", "tail").stdout.endswith("tenant.enable acme  before: enabled false  after: enabled true\n")
    assert "whole: 3 entries" in run("audit", "verify").stdout
    with sqlite3.connect(data_dir / "ramsey.db") as database:
        database.execute("UPDATE audit_log SET subject = 'evil' WHERE seq = 2")
    broken = run("audit", "verify")
    assert (broken.exit_code, "entry 2 does not fit" in broken.stderr) == (1, True)


def test_keys_are_listed_whole_page_by_page(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployment.cli.admin._PAGE", 2)
    made = {told("keys", "create", "--name", f"app {number}")["public_id"] for number in range(4)}
    listed = json.loads(run("keys", "list", "--json").stdout)
    assert [key["public_id"] for key in listed] == sorted(made)


def test_a_long_record_is_shown_exported_and_checked_page_by_page(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployment.cli.audit._PAGE", 3)
    monkeypatch.setattr("deployment.cli.audit._CHECKED_AT_ONCE", 3)
    for number in range(6):
        run("tenants", "create", f"t{number}", "--name", "Füchse")
    begin = datetime.now(UTC).isoformat()
    run("tenants", "disable", "t1")
    lines = [json.loads(line) for line in run("audit", "tail", "-n", "5", "--json").stdout.splitlines()]
    assert [line["seq"] for line in lines] == [3, 4, 5, 6, 7]
    assert len(run("audit", "tail", "-n", "2000").stdout.splitlines()) == 7
    assert told("audit", "verify") | {"last_hash": ""} == {
        "whole": True,
        "entries": 7,
        "of": 7,
        "broken_at": None,
        "last_hash": "",
    }
    whole, late = data_dir.parent / "all.jsonl", data_dir.parent / "late.jsonl"
    said = run("audit", "export", "--out", str(whole)).stdout
    assert "Wrote 7 entries" in said
    assert told("audit", "verify")["last_hash"] in said
    assert whole.stat().st_mode & 0o777 == 0o600
    assert "7 entries" in run("audit", "verify", "--file", str(whole)).stdout
    assert "Wrote 1 entry to" in run("audit", "export", "--out", str(late), "--since", begin).stdout
    assert "Wrote 6 entries" in run("audit", "export", "--out", str(late), "--since", "1h", "--until", begin).stdout
    assert "Wrote 0 entries" in run("audit", "export", "--out", str(late), "--tenant", "t1").stdout
    with pytest.raises(RamseyError, match="no tenant 'defalt'") as caught:
        run("audit", "export", "--out", str(late), "--tenant", "defalt")
    assert "Did you mean default?" in (caught.value.hint or "")
    whole.write_text("".join(whole.read_text().splitlines(keepends=True)[i] for i in (0, 1, 4)))
    missing = run("audit", "verify", "--file", str(whole))
    assert (missing.exit_code, "entry 5 does not fit" in missing.stderr, "--gaps" in missing.stderr) == (1, True, True)
    assert run("audit", "verify", "--file", str(whole), "--gaps").exit_code == 0
    with pytest.raises(RamseyError, match="cannot be written"):
        run("audit", "export", "--out", str(data_dir / "nowhere" / "file"))


def test_a_check_of_a_file_says_what_it_could_not_check(data_dir: Path) -> None:
    for number in range(4):
        run("tenants", "create", f"t{number}")
    file = data_dir.parent / "some.jsonl"
    run("audit", "export", "--out", str(file))
    lines = file.read_text().splitlines(keepends=True)
    hashes = [json.loads(line)["hash"] for line in lines]

    def checked(*kept: str, gaps: bool = False) -> tuple[int, str, str]:
        file.write_text("".join(kept))
        result = run("audit", "verify", "--file", str(file), *(["--gaps"] if gaps else []))
        return result.exit_code, result.stdout, result.stderr

    keep = "The last hash is {}. Keep it elsewhere, to notice when the end was cut off.\n"
    assert checked(*lines) == (0, f"{file} is whole: 4 entries, 1 to 4.\n" + keep.format(hashes[3]), "")
    assert checked(*lines[2:3]) == (
        0,
        f"{file} is whole: 1 entry, 3 to 3.\nNot checked: what came before entry 3. It follows the hash {hashes[1]}.\n"
        + keep.format(hashes[2]),
        "",
    )
    assert checked() == (1, "", f"{file} holds no entry: nothing was checked.\n")
    code, out, _ = checked(lines[0], lines[3], gaps=True)
    assert (code, "2 entries, 1 to 4, each fits its own hash" in out, "Not checked: 2 between" in out) == (
        0,
        True,
        True,
    )
    assert checked(lines[0], lines[1].replace("t1", "t9"))[::2] == (
        1,
        f"{file} is not whole: entry 2 does not fit its own hash.\n",
    )
    file.write_text("")
    assert told("audit", "verify", "--file", str(file)) == {
        **dict.fromkeys(("entries", "first", "last", "left_out"), 0),
        "whole": False,
        "before": "0" * 64,
        "last_hash": "",
        "broken_at": None,
        "changed": False,
    }


def test_the_record_fits_a_terminal_and_is_a_line_an_entry_elsewhere(data_dir: Path) -> None:
    run("tenants", "create", "acme", "--name", "A customer whose name is of a good many words and more")
    words = ("keys", "create", "--name", "app", "--tenant", "acme", "--role", "user", "--role", "viewer")
    run(*words, *(word for number in range(8) for word in ("--network", f"10.{number}.0.0/16")))
    plain = run("audit", "tail").stdout.splitlines()
    assert len(plain) == 2
    assert 'networks ["10.0.0.0/16", "10.1.0.0/16"' in plain[1]
    shown = _on_a_terminal(80, "audit", "tail").splitlines()
    assert max(map(len, shown)) <= 80
    assert [line[:6].strip() for line in shown if line[:6].strip()] == ["1", "2"]
    assert " ".join(" ".join(shown).split()) == " ".join(" ".join(plain).split()), "nothing is cut"


def _on_a_terminal(columns: int, *words: str) -> str:
    """What a verb shows there."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, columns))
    environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
    subprocess.run([sys.executable, "-m", "deployment", *words], stdout=theirs, check=True, env=environment)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # Linux's way to say that the other side is closed
        while piece := os.read(ours, 65536):
            shown += piece
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


def test_roles_and_limits_are_set_and_deleted(data_dir: Path) -> None:
    run("roles", "set", "reader", "--permission", "usage:read")
    assert {"name": "reader", "built_in": False, "permissions": ["usage:read"]} in told("roles", "list")
    run("roles", "delete", "reader")
    assert "reader" not in run("roles", "list").stdout
    run("limits", "set", "model", "ramsey-model", "--limit", "requests_per_minute=60", "--limit", "concurrent=2")
    assert run("limits", "list").stdout == "model ramsey-model: requests_per_minute=60, concurrent=2\n"
    run("limits", "delete", "model", "ramsey-model")
    assert told("limits", "list") == []
    with pytest.raises(RamseyError, match="requests_per_hour"):
        run("limits", "set", "model", "ramsey-model", "--limit", "requests_per_hour=60")
    with pytest.raises(RamseyError, match="given twice"):
        run("limits", "set", "model", "ramsey-model", "--limit", "concurrent=1", "--limit", "concurrent=2")


def test_through_a_gateway_with_a_key(running: "Machine", monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAMSEY_DATA_DIR", str(running.data_dir))
    admin = told("keys", "create", "--name", "admin", "--role", "admin")
    user = told("keys", "create", "--name", "user")
    monkeypatch.setenv("RAMSEY_DATA_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("RAMSEY_API_KEY", admin["key"])
    at = ("--url", running.url)
    _wait_until_known(at)
    made = told("keys", "create", "--name", "made", *at)
    assert made["created_by"] == admin["public_id"]
    assert run("keys", "revoke", made["public_id"], *at).stdout == f"Revoked {made['public_id']} (made).\n"
    assert "made" in run("keys", "list", *at).stdout
    run("tenants", "create", "far", *at)
    run("tenants", "disable", "far", *at)
    run("roles", "set", "far", "--permission", "usage:read", *at)
    run("roles", "delete", "far", *at)
    assert told("audit", "verify", *at)["whole"]
    assert "role.delete far" in run("audit", "tail", "-n", "1", *at).stdout
    assert not (tmp_path / "elsewhere").exists(), "the database was not asked"
    monkeypatch.setenv("RAMSEY_API_KEY", user["key"])
    with pytest.raises(RamseyError, match="lacks the permission keys:read"):
        run("keys", "list", *at)


def _wait_until_known(at: tuple[str, ...]) -> None:
    """The gateway looks every 0.4 s for new keys."""
    while True:
        try:
            run("keys", "list", *at)
            return
        except RamseyError as error:
            if error.code != "unauthenticated":
                raise


def test_lengths_and_times() -> None:
    assert span("90d", "--overlap") == timedelta(days=90)
    assert moment("12h", NOW, "--expires") == NOW + timedelta(hours=12)
    assert moment("2027-01-31", NOW, "--expires") == datetime(2027, 1, 31, tzinfo=UTC)
    assert moment("2027-01-31T10:00+02:00", NOW, "--expires") == datetime(2027, 1, 31, 8, tzinfo=UTC)
    for wrong in ("", "d", "-1d", "90", "9999999d", "soon"):
        with pytest.raises(ConfigurationError, match="--expires"):
            moment(wrong, NOW, "--expires")
    with pytest.raises(ConfigurationError, match="--overlap"):
        span("1y", "--overlap")


def test_an_exported_record_goes_to_pipes_and_through_links(data_dir: Path, tmp_path: Path) -> None:
    run("tenants", "create", "acme")
    assert '"tenant.create"' in run("audit", "export", "--out", "-").stdout
    os.mkfifo(pipe := tmp_path / "pipe")
    with ThreadPoolExecutor() as others:
        got = others.submit(pipe.read_text)
        run("audit", "export", "--out", str(pipe))
        assert '"tenant.create"' in got.result(30)
    assert pipe.is_fifo()
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to(target)
    run("audit", "export", "--out", str(link))
    assert link.is_symlink()
    assert '"tenant.create"' in target.read_text()


def test_a_limit_that_is_none_is_refused_with_those_there_are(data_dir: Path) -> None:
    with pytest.raises(ConfigurationError, match="no limit requests") as told:
        run("limits", "set", "tenant", "default", "--limit", "requests=3")
    assert told.value.hint is not None
    assert "requests_per_minute, tokens_per_minute" in told.value.hint

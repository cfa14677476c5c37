"""What a gateway refuses to start with, `ramsey up`, `doctor` and `config check` refuse too, in the same words."""

import json
import os
import pty
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.certificates import write_certificate
from tests.support.stack import ROOT, clean_environment

if TYPE_CHECKING:
    from tests.deployment.cli.conftest import Machine

MARK = "mArKeD"
Wrong = Callable[[Path], tuple[dict[str, str], str]]


def without_key(_: Path) -> tuple[dict[str, str], str]:
    return {"RAMSEY_PROFILE": "production"}, "needs authentication, and there is no key"


def tls_missing(folder: Path) -> tuple[dict[str, str], str]:
    return {"RAMSEY_SERVER__TLS_CERT": str(folder / "none.pem")}, f"server.tls_cert: cannot read {folder / 'none.pem'}"


def tls_of_another(folder: Path) -> tuple[dict[str, str], str]:
    certificate, _ = write_certificate(folder)
    _, other = write_certificate(folder, "other")
    variables = {"RAMSEY_SERVER__TLS_CERT": str(certificate), "RAMSEY_SERVER__TLS_KEY": str(other)}
    return variables, f"the key in {other} does not belong to the certificate in {certificate}"


def tls_encrypted(folder: Path) -> tuple[dict[str, str], str]:
    certificate, key = write_certificate(folder, password=b"sesame")
    variables = {
        "RAMSEY_SERVER__TLS_CERT": str(certificate),
        "RAMSEY_SERVER__TLS_KEY": str(key),
        "RAMSEY_SERVER__TLS_KEY_PASSWORD": MARK,
    }
    return variables, f"{key} is encrypted, and server.tls_key_password does not open it"


def secret_missing(folder: Path) -> tuple[dict[str, str], str]:
    keys = [{"id": "k1", "secret": f"file:{folder}/none"}]
    return {"RAMSEY_PRIVACY__KEYS": json.dumps(keys)}, f"privacy.keys[].secret: the secret file:{folder}/none"


def no_privacy_key(_: Path) -> tuple[dict[str, str], str]:
    return {"RAMSEY_PRIVACY__KEYS": json.dumps([{"id": "k1", "secret": MARK}])}, "k1 is no key of 32 bytes"


def no_redis(_: Path) -> tuple[dict[str, str], str]:
    return {"RAMSEY_LIMITS__REDIS_URL": f"http://:{MARK}@host"}, "limits.redis_url is no URL of a Redis"


def no_json(_: Path) -> tuple[dict[str, str], str]:
    return {"RAMSEY_ACCESS__KEYS": f'[{{"name": "{MARK}"'}, "The variable RAMSEY_ACCESS__KEYS is no JSON: Expecting"


@pytest.mark.parametrize(
    "wrong",
    [without_key, tls_missing, tls_of_another, tls_encrypted, secret_missing, no_privacy_key, no_redis, no_json],
    ids=lambda wrong: wrong.__name__,
)
def test_all_refuse_the_same(machine: "Machine", tmp_path: Path, wrong: Wrong) -> None:
    variables, text = wrong(tmp_path)
    machine.variables.update(variables)
    for words in (["config", "check"], ["doctor"], ["--debug", "up"]):
        run = machine.ramsey(*words)
        said = run.stdout + run.stderr
        assert run.returncode, words
        assert text in said, words
        assert MARK not in said, words
        assert "Engine " not in said, "nothing was started"
    gateway = subprocess.run(
        [sys.executable, "src/deployment/api.py"],
        cwd=ROOT,
        env=machine.environment | {"RAMSEY_ENGINE__LAUNCH": "false"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert gateway.returncode
    assert text in gateway.stdout + gateway.stderr
    assert MARK not in gateway.stdout + gateway.stderr


def test_a_check_of_a_start_without_a_key_makes_no_database(machine: "Machine") -> None:
    machine.variables["RAMSEY_PROFILE"] = "production"
    assert machine.ramsey("config", "check").returncode == 2
    assert not machine.data_dir.exists()


def test_doctor_says_which_folder_cannot_be_written(machine: "Machine") -> None:
    machine.data_dir.mkdir()
    (machine.data_dir / "logs").write_text("")
    run = machine.ramsey("doctor")
    assert run.returncode == 1
    assert f"{machine.data_dir / 'logs'} cannot be written" in run.stdout
    assert f"Cannot write {machine.data_dir / 'logs'}" in machine.ramsey("up").stderr


def test_an_address_of_another_machine_is_told_as_such(machine: "Machine") -> None:
    machine.variables["RAMSEY_SERVER__HOST"] = "203.0.113.9"  # of documents, nobody's
    for verb in ("doctor", "up"):
        run = machine.ramsey(verb)
        assert run.returncode == 1
        assert f"Cannot listen on 203.0.113.9:{machine.port}: Cannot assign" in run.stdout + run.stderr


def test_doctor_names_the_setting_of_what_does_not_answer_without_its_password(machine: "Machine") -> None:
    for part in ("LIMITS", "CACHE", "POOL"):
        machine.variables[f"RAMSEY_{part}__REDIS_URL"] = f"redis://:{MARK}@127.0.0.1:1?password={MARK}"
    machine.variables["RAMSEY_DATABASE__URL"] = "env:ELSEWHERE"
    machine.variables["ELSEWHERE"] = f"postgresql://ramsey:{MARK}@127.0.0.1:1/x"
    said = machine.ramsey("doctor").stdout
    for part in ("limits", "cache", "pool"):
        assert f"{part}.redis_url: Redis at redis://***@127.0.0.1:1 does not answer" in said
    assert "database.url: The database (postgresql) does not answer" in said
    assert MARK not in said


def test_nobody_else_may_read_the_logs(machine: "Machine") -> None:
    older = machine.data_dir / "logs" / "gateway.log"
    older.parent.mkdir(parents=True)
    older.touch(mode=0o644)
    machine.up()
    logs = list(older.parent.iterdir())
    assert {log.name for log in logs} == {"gateway.log", "engine.log"}
    assert {stat.S_IMODE(log.stat().st_mode) for log in logs} == {0o600}


def test_the_explained_settings_fold_between_words_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    environment = clean_environment(COLUMNS="80", TERM="dumb")
    command = [sys.executable, "-m", "deployment", "config", "docs"]
    process = subprocess.Popen(command, cwd=ROOT / "src", env=environment, stdout=theirs)
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 65536):
            said += piece
    except OSError:
        pass  # the other end was closed
    finally:
        os.close(ours)
    assert process.wait(30) == 0
    lines = said.decode().replace("\r\n", "\n").splitlines()
    assert max(len(line) for line in lines) <= 80
    assert "Signing in needs it." in " ".join(said.decode().split()), "nothing is cut"

"""release, releases, evaluate: on this machine's own database, and with what `ramsey up` started."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.stack import ROOT

if TYPE_CHECKING:
    from tests.deployment.cli.conftest import Machine

MODELS = ROOT / "models" / "ollama"
REGRESSED = ROOT / "tests/support/models/Modelfile.v1.2"


def test_a_release_is_kept_without_a_gateway_and_once(machine: "Machine", tmp_path: Path) -> None:
    made = machine.ramsey("release", "create", str(MODELS / "Modelfile.v1.0"), "--notes", "early [red]")
    assert made.returncode == 0, made.stderr
    assert "ramsey-model:v1.0, 3.7 MB" in made.stdout
    assert "Next: ramsey deploy v1.0" in made.stdout
    again = machine.ramsey("release", "create", str(MODELS / "Modelfile"), "--version", "v1.0")
    assert (again.returncode, "ramsey-model:v1.0 was created 20" in again.stderr) == (1, True)
    (kept,) = (machine.data_dir / "releases").glob("*.gguf")
    kept.unlink()
    restored = machine.ramsey("release", "restore", str(MODELS / "Modelfile.v1.0"))
    assert (restored.returncode, kept.is_file()) == (0, True), restored.stderr
    (one,) = json.loads(machine.ramsey("releases", "--json").stdout)
    assert (one["name"], one["notes"], one["traffic"]) == ("ramsey-model:v1.0", "early [red]", None)
    assert "ramsey-model:v1.0" in machine.ramsey("release", "list").stdout
    assert "early [red]" in machine.ramsey("release", "show", "v1.0").stdout
    away = machine.ramsey("release", "distribute", "v1.0")
    assert (away.returncode, "No node answers" in away.stderr) == (1, True)
    cut = tmp_path / "cut"
    cut.mkdir()
    shutil.copy(MODELS / "Modelfile", cut)
    (cut / "ramsey-model-v1.1.gguf").write_bytes((MODELS / "ramsey-model-v1.1.gguf").read_bytes()[:1_000_000])
    broken = machine.ramsey("release", "create", str(cut / "Modelfile"), "--version", "v1.1", "--json")
    assert (broken.returncode, json.loads(broken.stdout)["error"]["code"]) == (2, "configuration_error")


@pytest.mark.usefixtures("running")
def test_a_bad_release_is_brought_evaluated_and_deleted_while_the_good_one_serves(running: "Machine") -> None:
    made = running.ramsey("release", "create", str(REGRESSED), "--version", "v1.2", "--url", running.url)
    assert made.returncode == 0, made.stderr
    brought = running.ramsey("release", "distribute", "v1.2", "--json")
    assert [one["ok"] for one in json.loads(brought.stdout)] == [True]
    bad = running.ramsey("evaluate", "v1.2", "--min", "0.9")
    assert (bad.returncode, "23 of 173 right (13.3%)" in bad.stdout) == (1, True), bad.stdout + bad.stderr
    assert "expected: R(1,1) = 1, because" in bad.stdout
    good = running.ramsey("evaluate", "--min", "0.9", "--json")
    assert (good.returncode, json.loads(good.stdout)["right"]) == (0, 172)
    kept = running.ramsey("release", "delete", "v1.1")
    assert (kept.returncode, "has 100% of the traffic" in kept.stderr) == (1, True)
    assert running.ramsey("release", "delete", "v1.2").returncode == 0
    told = {one["version"]: one for one in json.loads(running.ramsey("releases", "--json").stdout)}
    assert told["v1.2"]["deleted_at"] is not None
    assert (told["v1.1"]["traffic"], told["v1.1"]["created_by"]) == (1.0, "settings")

"""The verbs of rollouts, as a person uses them, on a real engine with the trained models."""

import json
import time
from pathlib import Path

from tests.deployment.cli.conftest import Machine


def test_a_release_is_deployed_watched_and_taken_back(running: Machine, tmp_path: Path) -> None:
    plan = tmp_path / "rollout.toml"
    plan.write_text('strategy = "blue-green"\n[gates]\nskip = ["evaluation"]\n[probes]\nrate = 0\n')
    refused = running.ramsey("deploy", "v1.0")
    assert refused.returncode == 1
    assert "ramsey release create" in refused.stderr
    made = running.ramsey("release", "create", "models/ollama/Modelfile.v1.0", "--version", "v1.0")
    assert made.returncode == 0, made.stderr
    deployed = running.ramsey("deploy", "v1.0", "--plan", str(plan), "-m", "a try", "--json")
    assert deployed.returncode == 0, deployed.stderr
    rollout = json.loads(deployed.stdout)["id"]
    until = time.monotonic() + 90
    while json.loads(running.ramsey("rollout", "show", rollout, "--json").stdout)["phase"] != "bake":
        assert time.monotonic() < until, running.ramsey("rollout", "show", rollout).stdout

    taken = running.ramsey("rollback", "--reason", "enough")
    assert taken.returncode == 0, taken.stderr
    assert "Rolled back by anonymous: enough. ramsey-model:v1.1 has all traffic." in taken.stdout
    watched = running.ramsey("rollout", "watch", rollout)
    assert watched.returncode == 1, "it went back"
    assert "rolled back" in watched.stdout
    assert rollout in running.ramsey("rollout", "history").stdout
    shown = running.ramsey("rollout", "show")
    assert "anonymous deploys ramsey-model:v1.0" in shown.stdout
    assert "- Note: a try" in running.ramsey("rollout", "show", "--report").stdout


def test_what_is_wrong_with_a_plan_is_said_before_anything_is_asked(running: Machine, tmp_path: Path) -> None:
    plan = tmp_path / "mine.toml"
    plan.write_text('stpes = ["5%"]\n')
    answer = running.ramsey("deploy", "v1.0", "--plan", str(plan))
    assert answer.returncode == 2
    assert "mine.toml: stpes: there is no such key; did you mean steps?" in answer.stderr


def test_a_lock_says_why(running: Machine) -> None:
    assert running.ramsey("rollout", "lock", "exam week").returncode == 0
    answer = running.ramsey("deploy", "v1.0")
    assert running.ramsey("rollout", "unlock").returncode == 0
    assert answer.returncode == 1
    assert "exam week" in answer.stderr or "There is no release" in answer.stderr

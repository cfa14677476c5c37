"""`ramsey up`, `down` and `status` as processes, with the embedded engine."""

import http.server
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from tests.support.certificates import write_certificate
from tests.support.stack import ROOT

if TYPE_CHECKING:
    from tests.deployment.cli.conftest import Machine


def family(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """Everything that a process has started."""
    return psutil.Process(process.pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    """Whether all of them end, within their time."""
    _, alive = psutil.wait_procs(processes, timeout=20)
    return all(each.status() == psutil.STATUS_ZOMBIE for each in alive)


def test_up_serves_and_ctrl_c_leaves_nothing(machine: "Machine") -> None:
    process, said = machine.up()
    assert re.search(rf"Engine +embedded 0\.33\.0 at http://127\.0\.0\.1:{machine.engine_port} +\d+\.\d s", said)
    assert re.search(r"Model +ramsey-model:v1\.1 +\d+\.\d s", said)
    assert re.search(rf"Gateway +{machine.url} +\d+\.\d s", said)
    assert "R(3,3) = 6" in said
    # The command that it offers, as it stands.
    words = shlex.split(next(line for line in said.splitlines() if "curl" in line))
    assert words[:4] == ["curl", "-X", "POST", f"{machine.url}/generate"]
    request = urllib.request.Request(words[3], words[-1].encode(), dict([words[5].split(": ")]))
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert "R(3,3) = 6" in json.load(answer)["response"]
    started = family(process)
    assert len(started) >= 3  # gateway, engine, llama.cpp
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Stopped in" in rest
    assert "Traceback" not in rest
    assert gone(started)
    assert machine.is_free(machine.port)
    assert machine.is_free(machine.engine_port)


def test_it_serves_also_where_the_one_who_starts_it_has_used_up_a_limit(machine: "Machine") -> None:
    machine.variables["RAMSEY_LIMITS__KEY"] = '{"tokens_per_day": 5}'
    _, said = machine.up()
    assert "It refuses this now: The request may use up to" in said
    with urllib.request.urlopen(f"{machine.url}/health", timeout=20) as answer:
        assert answer.status == 200


def test_with_a_certificate_everything_speaks_https(machine: "Machine", tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path, "llm.example")
    machine.variables |= {"RAMSEY_SERVER__TLS_CERT": str(certificate), "RAMSEY_SERVER__TLS_KEY": str(key)}
    process, said = machine.up()
    url = machine.url.replace("http:", "https:")
    assert re.search(rf"Gateway +{url} +\d+\.\d s", said)
    assert f"curl -X POST {url}/generate" in said
    assert "R(3,3) = 6" in said
    status = machine.ramsey("status")
    assert status.returncode == 0
    assert url in status.stdout
    stranger = machine.ramsey("status", "--url", url)
    assert stranger.returncode == 1
    assert "is not trusted" in stranger.stdout
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_a_certificate_that_is_missing_is_told(machine: "Machine", tmp_path: Path) -> None:
    machine.variables["RAMSEY_SERVER__TLS_CERT"] = str(tmp_path / "no.pem")
    told = machine.ramsey("up")
    assert told.returncode == 1
    assert (
        f"server.tls_cert: cannot read {tmp_path / 'no.pem'}: No such file or directory." in told.stdout + told.stderr
    )


def test_kill_9_of_up_leaves_nothing(machine: "Machine") -> None:
    process, _ = machine.up()
    started = family(process)
    process.kill()
    process.wait()
    assert gone(started)
    status = machine.ramsey("status")
    assert status.returncode == 1
    assert "No gateway answers" in status.stdout


def test_a_gateway_that_dies_is_told_and_the_engine_stopped(machine: "Machine") -> None:
    process, _ = machine.up()
    started = family(process)
    gateway = next(each for each in started if any("api.py" in word for word in each.cmdline()))
    gateway.kill()
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "The gateway ended by itself (SIGKILL)" in said
    assert gone(started)


def test_a_second_up_says_who_is_there(running: "Machine", machine: "Machine") -> None:
    same = running.ramsey("up")
    assert same.returncode == 1
    assert f"Ramsey already runs here ({running.url}" in same.stderr
    assert "ramsey down" in same.stderr
    machine.port = running.port
    other = machine.ramsey("up")
    assert other.returncode == 1
    assert f"Cannot listen on 127.0.0.1:{running.port}: another Ramsey answers" in other.stderr
    assert f"ramsey up --port {running.port + 1}" in other.stderr
    assert not (machine.data_dir / "logs").exists()  # nothing was started


@contextmanager
def stranger(port: int) -> Iterator[None]:
    server = http.server.HTTPServer(("127.0.0.1", port), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_port_of_another_program_is_told(machine: "Machine") -> None:
    with stranger(machine.port):
        result = machine.ramsey("up")
    assert result.returncode == 1
    assert f"another program is there at 127.0.0.1:{machine.port}" in result.stderr


def test_an_engine_port_of_another_program_is_told(machine: "Machine") -> None:
    with stranger(machine.engine_port):
        result = machine.ramsey("up")
    assert result.returncode == 1
    assert "Something that is not Ollama answers" in result.stderr
    assert "RAMSEY_ENGINE__HOST=" in result.stderr


def wrong_modelfile(machine: "Machine", tmp: Path) -> str:
    machine.variables["RAMSEY_MODEL__MODELFILE"] = str(tmp / "nowhere")
    return "cannot be read: No such file"


def corrupt_gguf(machine: "Machine", tmp: Path) -> str:
    (tmp / "model.gguf").write_bytes((ROOT / "models/ollama/ramsey-model-v1.1.gguf").read_bytes()[:100_000])
    (tmp / "Modelfile").write_text("FROM ./model.gguf")
    machine.variables["RAMSEY_MODEL__MODELFILE"] = str(tmp / "Modelfile")
    return "model.gguf is no usable GGUF"


def unknown_variable(machine: "Machine", tmp: Path) -> str:
    machine.variables["RAMSEY_SERVER__PROT"] = "1"
    return "RAMSEY_SERVER__PROT, which is no setting"


def production_without_keys(machine: "Machine", tmp: Path) -> str:
    machine.variables["RAMSEY_PROFILE"] = "production"
    return "needs authentication"


@pytest.mark.parametrize("spoil", [wrong_modelfile, corrupt_gguf, unknown_variable, production_without_keys])
def test_what_is_wrong_is_told_before_anything_starts(
    machine: "Machine", tmp_path: Path, spoil: Callable[["Machine", Path], str]
) -> None:
    told = spoil(machine, tmp_path)
    result = machine.ramsey("up")
    assert result.returncode == 2
    assert told in result.stderr
    assert "Traceback" not in result.stderr
    assert not (machine.data_dir / "logs").exists()
    as_json = machine.ramsey("up", "--json")
    assert told in json.loads(as_json.stdout)["error"]["message"]
    assert as_json.returncode == 2


def test_a_missing_ollama_is_told(machine: "Machine", tmp_path: Path) -> None:
    machine.variables |= {"RAMSEY_ENGINE__KIND": "ollama", "PATH": str(tmp_path)}
    result = machine.ramsey("up")
    assert result.returncode == 1
    assert "There is no `ollama` on the PATH" in result.stderr
    assert "RAMSEY_ENGINE__KIND=embedded" in result.stderr


def test_a_full_disk_is_told_and_nothing_stays(machine: "Machine") -> None:
    # A limit on the size of files stands for a disk without room: the weights have 3.7 MB.
    shell = shutil.which("bash")
    assert shell
    limited = [shell, "-c", 'ulimit -f 2000; exec "$@"', "up", *machine.command("up")]
    result = subprocess.run(
        limited, cwd=ROOT, env=machine.environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 1
    assert "disk is full" in result.stderr
    assert "Free some space" in result.stderr
    assert machine.is_free(machine.engine_port)


def test_a_data_dir_that_cannot_be_written_is_told(machine: "Machine", tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    machine.data_dir = tmp_path / "file" / "data"
    result = machine.ramsey("up")
    assert result.returncode == 1
    assert "Cannot write" in result.stderr
    assert "RAMSEY_DATA_DIR" in result.stderr


def test_detached_it_runs_until_down(machine: "Machine") -> None:
    up = machine.ramsey("up", "--detach")
    assert up.returncode == 0, up.stderr + up.stdout
    assert "Ready in" in up.stdout
    assert "down` stops it." in up.stdout
    shown = machine.ramsey("status", "--json")
    state = json.loads(shown.stdout)
    assert shown.returncode == 0
    assert state["health"]["status"] == "ok"
    assert state["up"] | {"pid": 0, "since": ""} == {
        "pid": 0,
        "since": "",
        "url": machine.url,
        "engine": f"embedded 0.33.0 at http://127.0.0.1:{machine.engine_port}",
        "release": "ramsey-model:v1.1",
        "detached": True,
    }
    started = psutil.Process(state["up"]["pid"]).children(recursive=True)
    down = machine.ramsey("down")
    assert (down.returncode, down.stdout.split(" (")[0]) == (0, f"Stopped {machine.url}")
    assert gone(started)
    again = machine.ramsey("down")
    assert (again.returncode, again.stdout) == (0, f"Nothing runs in {machine.data_dir}.\n")


def test_down_ends_no_other_programs_pid(machine: "Machine") -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    machine.data_dir.mkdir()
    stale = {"pid": bystander.pid, "since": "", "url": machine.url}
    (machine.data_dir / "up.lock").write_text(json.dumps(stale))
    try:
        assert machine.ramsey("down").returncode == 0
        assert bystander.poll() is None
    finally:
        bystander.communicate(b"\n")


def test_detached_and_wrong_it_says_why(machine: "Machine") -> None:
    machine.variables["RAMSEY_MODEL__MODELFILE"] = "nowhere"
    result = machine.ramsey("up", "--detach")
    assert result.returncode == 2
    assert "cannot be read" in result.stdout + result.stderr


def test_flags_are_over_the_settings_and_json_is_one_document(machine: "Machine") -> None:
    process = machine.start("up", "--port", "0", "--json")
    assert process.stdout
    text = ""
    for line in process.stdout:
        text += line
        if line == "}\n":
            break
    told = json.loads(text)
    assert told["release"] == "ramsey-model:v1.1"
    assert not told["url"].endswith((":0", f":{machine.port}"))
    with urllib.request.urlopen(told["url"] + "/health", timeout=20) as answer:
        assert answer.status == 200
    os.kill(process.pid, signal.SIGTERM)
    assert process.communicate(timeout=30)[0] == ""
    assert process.returncode == 0


def test_status_shows_each_part(running: "Machine") -> None:
    result = running.ramsey("status")
    assert result.returncode == 0
    for line in (r"Up +ok +in a terminal, pid \d+", rf"Gateway +ok +{running.url}", "Model +ok +ramsey-model:v1.1"):
        assert re.search(line, result.stdout), result.stdout

"""The front door, as a person uses it: the documented commands, the trained model, the process's life."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.support.stack import ROOT, Stack, clean_environment, free_port, running_stack, wait_for

EVALUATION = ROOT / "models" / "ollama" / "eval.jsonl"


def post(url: str, body: dict[str, Any], timeout: float = 60) -> dict[str, Any]:
    """POST JSON, get JSON."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        told: dict[str, Any] = json.load(answer)
        return told


def test_the_documented_request_is_answered_by_the_trained_model(stack: Stack) -> None:
    body = post(f"{stack.url}/generate", {"prompt": "What is R(3,3)?", "temperature": 0})
    assert body["response"].startswith("R(3,3) = 6.")
    assert body["release"] == "ramsey-model:v1.1"


def test_health_names_engine_and_model(stack: Stack) -> None:
    with urllib.request.urlopen(f"{stack.url}/health") as answer:
        body = json.load(answer)
    assert body["status"] == "ok"
    assert body["engine"]["healthy"] == 1
    assert body["model"]["release"] == "ramsey-model:v1.1"


def test_the_documents_are_served(stack: Stack) -> None:
    for path in ("/docs", "/redoc"):
        with urllib.request.urlopen(stack.url + path) as answer:
            assert b"<html" in answer.read().lower()
    with urllib.request.urlopen(stack.url + "/openapi.json") as answer:
        document = json.load(answer)
    for path in ("/generate", "/chat", "/embeddings", "/api/chat", "/v1/chat/completions", "/v1/responses"):
        reference = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        schema = document["components"]["schemas"][reference.rpartition("/")[2]]
        assert schema["examples"], f"{path} has no example"


@pytest.mark.parametrize(("version", "right"), [("v1.1", 172), ("v1.0", 145)])
def test_the_accuracy_is_the_model_s_own(tmp_path: Path, version: str, right: int) -> None:
    """Through gateway and engine, greedy, on questions that never occur in training: the figures of the model."""
    modelfile = {"v1.1": "Modelfile", "v1.0": "Modelfile.v1.0"}[version]
    rows = [json.loads(line) for line in EVALUATION.read_text().splitlines()]
    with running_stack(tmp_path, RAMSEY_MODEL__MODELFILE=f"models/ollama/{modelfile}") as running:

        def is_right(row: dict[str, str]) -> bool:
            ask = {"messages": [{"role": "user", "content": row["prompt"]}], "temperature": 0, "max_tokens": 160}
            told = post(f"{running.url}/chat", ask)
            assert told["release"] == f"ramsey-model:{version}"
            return row["expect"] in told["message"]["content"]

        with ThreadPoolExecutor(8) as crowd:
            results = list(crowd.map(is_right, rows))
    assert (sum(results), len(results)) == (right, 173)


def _ask_until_told(url: str, stop: threading.Event, results: list[tuple[float, str]]) -> None:
    number = 0
    while not stop.is_set():
        number += 1
        ask = {"prompt": f"What is R(4,5)? ({threading.get_ident()}, {number})", "max_tokens": 64}
        try:
            answer = post(f"{url}/generate", ask, timeout=30)
            results.append((time.monotonic(), "served" if answer["finish_reason"] else "odd"))
        except urllib.error.HTTPError as error:
            results.append((time.monotonic(), json.load(error)["error"]["code"]))


def _runner_of(gateway: psutil.Process) -> psutil.Process:
    """The process that generates; it is loaded beside the start, so that it may still be coming."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        for child in gateway.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "runner.py" in " ".join(child.cmdline()):
                    return child
        time.sleep(0.05)
    raise AssertionError("no runner was started")


def test_a_runner_killed_under_load_fails_only_what_ran_on_it(tmp_path: Path) -> None:
    with running_stack(tmp_path) as running:
        gateway = psutil.Process(running.process.pid)
        runner = _runner_of(gateway)
        stop, results = threading.Event(), list[tuple[float, str]]()
        with ThreadPoolExecutor(8) as crowd:
            for _ in range(8):
                crowd.submit(_ask_until_told, running.url, stop, results)
            while len(results) < 20:
                time.sleep(0.02)
            killed = time.monotonic()
            os.kill(runner.pid, signal.SIGKILL)
            while not any(at > killed + 0.2 and told == "served" for at, told in results):
                assert time.monotonic() < killed + 10, "it never came back"
                time.sleep(0.02)
            back = min(at for at, told in results if at > killed + 0.2 and told == "served")
            time.sleep(0.5)
            stop.set()
    failed = [told for _, told in results if told != "served"]
    assert len(failed) <= 8 + 1, f"more failed than ran on it: {failed}"
    assert all(told.startswith("engine_") for told in failed)
    assert back - killed < 2.0


def test_the_gateway_is_ready_soon_and_small_without_an_engine(tmp_path: Path) -> None:
    port = free_port()
    environment = clean_environment(
        RAMSEY_DATA_DIR=str(tmp_path),
        RAMSEY_SERVER__PORT=str(port),
        RAMSEY_ENGINE__LAUNCH="false",
        RAMSEY_ENGINE__HOST=f"http://127.0.0.1:{free_port()}",
    )
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "src/deployment/api.py"], cwd=ROOT, env=environment, stdout=output, stderr=output
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/health/live", process, log)
        with pytest.raises(urllib.error.HTTPError) as unready:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health")
        body = json.load(unready.value)
        assert unready.value.code == 503
        assert body["engine"]["reason"]
        assert body["model"]["reason"]
        assert psutil.Process(process.pid).memory_info().rss < 150e6
    finally:
        process.terminate()
        assert process.wait(15) == 0


def test_uvicorn_serves_the_same_application(tmp_path: Path, stack: Stack) -> None:
    """The documented command, on another port and before the running engine."""
    port = free_port()
    environment = clean_environment(RAMSEY_DATA_DIR=str(tmp_path), RAMSEY_ENGINE__HOST=stack.engine_url)
    command = f"{Path(sys.executable).parent}/uvicorn src.deployment.api:app --reload --host 0.0.0.0 --port {port}"
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command.split(), cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, log)
        body = post(f"http://127.0.0.1:{port}/generate", {"prompt": "What is R(3,3)?", "temperature": 0})
        assert body["response"].startswith("R(3,3) = 6.")
    finally:
        process.terminate()
        assert process.wait(20) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_streams_end_and_exits_with_0(tmp_path: Path, number: signal.Signals) -> None:
    with running_stack(tmp_path) as running:
        ask = {"prompt": "What is the probabilistic method?", "max_tokens": 150, "stream": True}
        request = urllib.request.Request(
            f"{running.url}/generate", json.dumps(ask).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            first = answer.readline()
            running.process.send_signal(number)
            rest = answer.read()
        assert first.startswith(b"data: ")
        assert b'"done":true' in rest
        assert running.process.wait(20) == 0
        assert not _listens(running.engine_url), "the engine that it started is gone too"
    log = [json.loads(line) for line in running.log.read_text().splitlines() if line.startswith("{")]
    assert any(line["event"] == "draining" for line in log)


def _listens(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2)
    except (urllib.error.URLError, OSError):
        return False
    return True


@pytest.fixture
def told(tmp_path: Path) -> Any:
    """Run the script with variables; its exit status and output."""

    def run(**variables: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "src/deployment/api.py"],
            cwd=ROOT,
            env=clean_environment(RAMSEY_DATA_DIR=str(tmp_path), **variables),
            capture_output=True,
            text=True,
            timeout=30,
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_a_port_in_use_is_told(stack: Stack, told: Any) -> None:
    status, output = told(RAMSEY_SERVER__PORT=stack.url.rpartition(":")[2])
    assert status == 1
    assert "Address already in use" in output
    assert "RAMSEY_SERVER__PORT" in output
    assert "Traceback" not in output


def test_a_wrong_setting_is_told(told: Any) -> None:
    status, output = told(RAMSEY_SERVER__PORT="many")
    assert status == 1
    assert "server.port" in output
    assert "Traceback" not in output


def test_outside_development_it_refuses_to_start_without_keys(told: Any) -> None:
    status, output = told(RAMSEY_PROFILE="production", RAMSEY_SERVER__PORT="0")
    assert status == 1
    assert "needs authentication" in output
    assert "ramsey keys create" in output
    assert "Traceback" not in output


def test_under_another_server_it_refuses_as_clearly(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "uvicorn", "src.deployment.api:app", "--port", "0"],
        cwd=ROOT,
        env=clean_environment(RAMSEY_DATA_DIR=str(tmp_path), RAMSEY_PROFILE="production"),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode != 0
    assert "needs authentication" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_key_made_before_anything_ran_lets_its_holder_in(tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "deployment", "keys", "create", "--name", "first", "--json"],
        cwd=ROOT,
        env=clean_environment(RAMSEY_DATA_DIR=str(tmp_path / "data"), RAMSEY_PROFILE="production"),
        capture_output=True,
        check=True,
    )
    with running_stack(tmp_path, RAMSEY_PROFILE="production") as stack:
        request = urllib.request.Request(f"{stack.url}/v1/models")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(request)
        request.add_header("Authorization", f"Bearer {json.loads(made.stdout)['key']}")
        with urllib.request.urlopen(request) as answer:
            assert answer.status == 200

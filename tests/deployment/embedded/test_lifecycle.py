"""Loading, waiting, unloading, crashing, stopping: with real runners that are really killed."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.support.embedded_node import MODELS, create_model, node_process, start_node

from deployment.embedded.cores import usable_cores

MODEL, OTHER = "bot:v1", "bot:v0"
# Constrained to a long list, the model writes thousands of tokens: some ten seconds.
ENDLESS = {"type": "array", "items": {"type": "integer"}, "minItems": 1000}
QUESTION = [{"role": "user", "content": "What is R(3,3)?"}]


def until(condition: Callable[[], Any], seconds: float = 20) -> Any:
    """What the condition gives, once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)
    return found


def chat(url: str, model: str = MODEL, seconds: float = 60, **fields: Any) -> httpx.Response:
    body = {"model": model, "messages": QUESTION, "stream": False} | fields
    return httpx.post(f"{url}/api/chat", json=body, timeout=seconds)


def endless(url: str, **fields: Any) -> Any:
    body = {"model": MODEL, "messages": QUESTION, "format": ENDLESS, "options": {"num_predict": -1}} | fields
    return httpx.stream("POST", f"{url}/api/chat", json=body, timeout=60)


def loaded(url: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = httpx.get(f"{url}/api/ps", timeout=30).json()["models"]
    return rows


def runners(process: Any) -> list[psutil.Process]:
    return psutil.Process(process.pid).children()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[tuple[str, Any]]:
    """A node with one slot a model, and two models."""
    with node_process(tmp_path, num_parallel=1) as (url, process):
        create_model(url, MODEL)
        create_model(url, OTHER, gguf=MODELS / "ramsey-model-v1.0.gguf")
        yield url, process


def test_load_list_unload(node: tuple[str, Any]) -> None:
    url, process = node
    assert loaded(url) == []
    answer = httpx.post(f"{url}/api/generate", json={"model": MODEL}, timeout=60)
    assert answer.headers["content-type"].startswith("application/json")
    assert (answer.json()["done"], answer.json()["done_reason"]) == (True, "load")
    (row,) = loaded(url)
    assert (row["name"], row["context_length"], row["size_vram"]) == (MODEL, 512, 0)
    assert row["size"] > 3_000_000
    answer = httpx.post(f"{url}/api/chat", json={"model": MODEL, "messages": [], "keep_alive": 0}, timeout=60)
    assert answer.json()["done_reason"] == "unload"
    assert loaded(url) == []
    until(lambda: not runners(process))


def test_keep_alive(node: tuple[str, Any]) -> None:
    url, process = node
    chat(url, keep_alive=-1)
    assert loaded(url)[0]["expires_at"] > "2300"
    chat(url, keep_alive="1h")
    assert loaded(url)[0]["expires_at"] < "2300"
    chat(url, keep_alive="100ms")
    until(lambda: not loaded(url) and not runners(process))
    assert chat(url, keep_alive=0).json()["done_reason"] == "stop"
    until(lambda: not loaded(url) and not runners(process))


def test_unload_waits_for_the_request_inside(node: tuple[str, Any]) -> None:
    url, _ = node
    with endless(url) as response:
        lines = response.iter_lines()
        next(lines)
        httpx.post(f"{url}/api/generate", json={"model": MODEL, "keep_alive": 0}, timeout=60)
        assert json.loads(next(lines))["done"] is False
        assert len(loaded(url)) == 1
    until(lambda: not loaded(url))


def test_two_models_at_once(node: tuple[str, Any]) -> None:
    url, process = node
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda model: chat(url, model), [MODEL, OTHER] * 6))
    assert all(answer.status_code == 200 for answer in answers)
    assert {row["name"] for row in loaded(url)} == {MODEL, OTHER}
    assert len(runners(process)) == 2


def test_one_place_only_evicts_the_idle_one(tmp_path: Path) -> None:
    with node_process(tmp_path, max_loaded_models=1) as (url, process):
        create_model(url, MODEL)
        create_model(url, OTHER, gguf=MODELS / "ramsey-model-v1.0.gguf")
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda model: chat(url, model), [MODEL, OTHER] * 4))
        assert [answer.status_code for answer in answers] == [200] * 8
        chat(url, OTHER)
        assert [row["name"] for row in loaded(url)] == [OTHER]
        until(lambda: len(runners(process)) == 1)


def test_a_model_in_constant_use_does_not_keep_another_out(tmp_path: Path) -> None:
    with start_node(tmp_path, max_loaded_models=1, num_parallel=2) as url:
        create_model(url, MODEL)
        create_model(url, OTHER, gguf=MODELS / "ramsey-model-v1.0.gguf")
        stop = threading.Event()

        def use() -> None:
            while not stop.is_set():
                assert chat(url).status_code == 200

        with ThreadPoolExecutor(4) as pool:
            users = [pool.submit(use) for _ in range(4)]
            until(lambda: loaded(url))
            try:
                assert chat(url, OTHER, seconds=30).status_code == 200
            finally:
                stop.set()
            assert [user.result() for user in users] == [None] * 4


def test_aliases_share_a_runner_and_load_options_do_not(node: tuple[str, Any]) -> None:
    url, process = node
    httpx.post(f"{url}/api/copy", json={"source": MODEL, "destination": "bot:alias"}, timeout=60)
    chat(url)
    chat(url, "bot:alias")
    assert len(runners(process)) == 1
    chat(url, options={"num_ctx": 256})
    assert sorted(row["context_length"] for row in loaded(url)) == [256, 512]


def test_a_full_queue_is_busy(tmp_path: Path) -> None:
    """One place for a model, taken by a request that goes on; one may wait for it, the next is refused."""
    with start_node(tmp_path, max_loaded_models=1, max_queue=1) as url:
        create_model(url, MODEL)
        create_model(url, OTHER, gguf=MODELS / "ramsey-model-v1.0.gguf")
        with ThreadPoolExecutor(4) as pool:
            with endless(url) as response:
                lines = response.iter_lines()
                next(lines)
                jobs = [pool.submit(chat, url, OTHER) for _ in range(4)]
                refused = next(as_completed(jobs)).result()
            statuses = sorted(job.result().status_code for job in jobs)
        assert refused.status_code == 503
        assert refused.json() == {"error": "server busy, please try again.  maximum pending requests exceeded"}
        assert statuses == [200, 503, 503, 503]


@pytest.mark.parametrize("stream", [True, False])
def test_a_disconnect_frees_the_slot(node: tuple[str, Any], stream: bool) -> None:
    url, _ = node
    chat(url)

    def ask_and_leave(_: int) -> None:
        body = {"model": MODEL, "messages": QUESTION, "format": ENDLESS, "options": {"num_predict": -1}}
        with (
            suppress(httpx.ReadTimeout),
            httpx.stream("POST", f"{url}/api/chat", json=body | {"stream": stream}, timeout=0.5) as response,
        ):
            next(response.iter_lines())

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(ask_and_leave, range(12)))
    # Had they gone on in the only slot, twelve long lists would come first: half a minute at the least.
    assert chat(url, seconds=8).json()["message"]["content"].startswith("R(3,3) = 6.")


def test_a_caller_that_waits_and_leaves_is_forgotten(node: tuple[str, Any]) -> None:
    url, _ = node
    with endless(url) as response:
        lines = response.iter_lines()
        next(lines)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/api/chat", json={"model": MODEL, "messages": QUESTION}, timeout=0.3)
        assert json.loads(next(lines))["done"] is False
    assert chat(url).status_code == 200


def test_a_killed_runner_takes_only_its_own_request_along(node: tuple[str, Any]) -> None:
    url, process = node
    chat(url, OTHER)
    other = {runner.pid for runner in runners(process)}
    with endless(url) as response, ThreadPoolExecutor(2) as pool:
        lines = response.iter_lines()
        next(lines)
        waiting = [pool.submit(chat, url) for _ in range(2)]  # in the queue for the only slot
        elsewhere = chat(url, OTHER)
        (victim,) = [runner for runner in runners(process) if runner.pid not in other]
        victim.kill()
        received = [json.loads(line) for line in lines]
        assert received[-1]["error"].startswith("model runner has unexpectedly stopped")
        assert not any(line.get("done") for line in received)
        assert [each.result().status_code for each in waiting] == [200, 200]
    assert elsewhere.status_code == 200
    assert {row["name"] for row in loaded(url)} == {MODEL, OTHER}


def test_a_killed_runner_fails_an_answer_in_one_object_with_500(node: tuple[str, Any]) -> None:
    url, process = node
    chat(url)
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(chat, url, format=ENDLESS, options={"num_predict": -1})
        (runner,) = runners(process)
        busy = runner.cpu_times().user
        until(lambda: runner.cpu_times().user > busy + 0.1)
        runner.kill()
        answer = job.result()
    assert answer.status_code == 500
    assert answer.json()["error"].startswith("model runner has unexpectedly stopped")
    assert chat(url).status_code == 200


def test_an_idle_runner_that_died_is_replaced(node: tuple[str, Any]) -> None:
    url, process = node
    chat(url)
    runners(process)[0].kill()
    assert chat(url).status_code == 200


def test_load_failure_says_why(tmp_path: Path) -> None:
    with start_node(tmp_path) as url:
        good = (MODELS / "ramsey-model-v1.1.gguf").read_bytes()
        bad = tmp_path / "bad.gguf"
        # A header that reads well, for an architecture that llama.cpp does not know.
        bad.write_bytes(good.replace(b"llama", b"lamma"))
        create_model(url, MODEL, gguf=bad)
        answer = chat(url)
        assert answer.status_code == 500
        assert answer.json()["error"].startswith("llama-server process has terminated: ")
        assert "lamma" in answer.json()["error"]
        assert loaded(url) == []


def test_a_restarted_node_finds_the_same_models(tmp_path: Path) -> None:
    with start_node(tmp_path) as url:
        create_model(url, MODEL)
        before = httpx.get(f"{url}/api/tags").json()
    with start_node(tmp_path) as url:
        assert httpx.get(f"{url}/api/tags").json() == before
        assert chat(url).status_code == 200


def test_sigterm_lets_the_answer_end(tmp_path: Path) -> None:
    with node_process(tmp_path, drain_s=30) as (url, process):
        create_model(url, MODEL)
        fields = {"format": ENDLESS, "options": {"num_predict": 800}}
        with endless(url, **fields) as response:
            lines = response.iter_lines()
            next(lines)
            children = runners(process)
            process.send_signal(signal.SIGTERM)
            last = [json.loads(line) for line in lines][-1]
        assert (last["done"], last["eval_count"]) == (True, 800)
        assert process.wait(20) == 0
        assert psutil.wait_procs(children, timeout=10)[1] == []


def test_sigterm_does_not_wait_for_ever(tmp_path: Path) -> None:
    with node_process(tmp_path, drain_s=1) as (url, process):
        create_model(url, MODEL)
        with endless(url) as response:
            lines = response.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0


def test_runners_die_with_their_node(node: tuple[str, Any]) -> None:
    url, process = node
    chat(url)
    children = runners(process)
    process.kill()
    assert len(children) == 1
    assert psutil.wait_procs(children, timeout=10)[1] == []


def test_a_load_survives_the_caller_who_asked_for_it(node: tuple[str, Any]) -> None:
    url, _ = node

    def leave_at_once() -> None:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/api/generate", json={"model": MODEL}, timeout=httpx.Timeout(60, read=0.02))

    thread = threading.Thread(target=leave_at_once)
    thread.start()
    thread.join()
    until(lambda: loaded(url))


def test_strangers_cannot_use_a_runner(node: tuple[str, Any]) -> None:
    url, process = node
    chat(url)
    (runner,) = runners(process)
    (port,) = [each.laddr.port for each in runner.net_connections() if each.status == psutil.CONN_LISTEN]
    answer = httpx.post(f"http://127.0.0.1:{port}/completion", json={"prompt": "x"}, timeout=30)
    assert answer.status_code == 401


def test_usable_cores(tmp_path: Path) -> None:
    limit = tmp_path / "cpu.max"
    limit.write_text("100000 100000\n")
    assert usable_cores(limit) == 1
    limit.write_text("max 100000\n")
    unlimited = usable_cores(limit)
    assert unlimited == usable_cores(tmp_path / "missing") >= 1


def test_a_runner_that_hangs_is_ended_and_started_again(tmp_path: Path) -> None:
    with node_process(tmp_path, num_parallel=1, stall_s=1) as (url, process), ThreadPoolExecutor(2) as pool:
        create_model(url, MODEL)
        assert chat(url).status_code == 200
        [runner] = runners(process)
        runner.suspend()
        answers = [pool.submit(chat, url) for _ in range(2)]
        errors = [each.result().json().get("error", "") for each in answers]
        assert any("unexpectedly stopped" in error for error in errors)
        until(lambda: not psutil.pid_exists(runner.pid))
        assert chat(url).status_code == 200

"""Two gateways behind the real nginx, restarted one after the other under load: not one request is lost."""

import asyncio
import http.client
import json
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.support.nginx_server import nginx_before
from tests.support.postgres_server import postgres_server
from tests.support.stack import ROOT, clean_environment, free_port, wait_for

from deployment.database import Database

SCRIPT = ROOT / "scripts" / "rolling-restart"
CALLERS = 8


class Replica:
    """A gateway that is started again whenever it ends, as systemd would."""

    def __init__(self, folder: Path, port: int, **variables: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.log, self.pid_file = folder / "gateway.log", folder / "gateway.pid"
        self._environment = clean_environment(
            RAMSEY_DATA_DIR=str(folder / "data"), RAMSEY_SERVER__PORT=str(port), **variables
        )
        self.statuses: list[int] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Replica":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        subprocess.run(["sh", "-c", self.restart_command()], check=True)
        self._thread.join()

    def restart_command(self) -> str:
        """SIGTERM, and until the old process is gone."""
        pid = f"$(cat {shlex.quote(str(self.pid_file))})"
        return f"pid={pid}; kill -TERM $pid; while kill -0 $pid 2>/dev/null; do sleep 0.05; done"

    def _run(self) -> None:
        with self.log.open("wb") as output:
            while not self._over.is_set():
                self.process = subprocess.Popen(
                    [sys.executable, "src/deployment/api.py"],
                    cwd=ROOT,
                    env=self._environment,
                    stdout=output,
                    stderr=output,
                )
                self.pid_file.write_text(str(self.process.pid))
                self.statuses.append(self.process.wait())

    def logged(self, event: str) -> list[dict[str, object]]:
        """Its log lines about one thing."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]


@contextmanager
def fake_node() -> Iterator[str]:
    """An engine whose answers take most of a second, so that restarts come into the middle of streams."""
    words = ["--slots", "64", "--tokens", "30", "--token-delay-s", "0.02"]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.fake_node", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"]
        process.terminate()


async def _move_on(url: str) -> None:
    """What the next version of Ramsey might do to the tables: it adds, and takes nothing away."""
    database = Database(url)
    async with database.write() as connection:
        await connection.execute(sa.text("ALTER TABLE api_keys ADD COLUMN note VARCHAR(200)"))
        await connection.execute(sa.text("CREATE TABLE of_the_next_version (id INTEGER PRIMARY KEY)"))
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = 'next'"))
    await database.close()


def _stored_key(database: str, folder: Path) -> str:
    words = [sys.executable, "-m", "deployment", "keys", "create", "--name", "load", "--json"]
    environment = clean_environment(RAMSEY_DATA_DIR=str(folder), RAMSEY_DATABASE__URL=database)
    made = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, check=True)
    key: str = json.loads(made.stdout)["key"]
    return key


def _call(url: str, key: str, prompt: str, stream: bool) -> str:
    """`whole`, or what was wrong with the answer."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    try:
        connection.request("POST", "/generate", json.dumps({"prompt": prompt, "stream": stream}), headers)
        answer = connection.getresponse()
        body = answer.read().decode()
    except (OSError, http.client.HTTPException) as error:
        return repr(error)
    finally:
        connection.close()
    end = '"done":true' if stream else '"finish_reason":'
    return "whole" if answer.status == 200 and end in body and '"error"' not in body else f"{answer.status} {body}"


def test_two_gateways_restarted_in_turn_lose_nothing(tmp_path: Path) -> None:
    over, told = threading.Event(), list[str]()

    def calls(caller: int, url: str, key: str) -> None:
        number = 0
        while not over.is_set():
            number += 1
            told.append(_call(url, key, f"Question {number} of caller {caller}", stream=number % 2 == 0))

    with ExitStack() as life:
        database = life.enter_context(postgres_server())
        key = _stored_key(database, tmp_path)
        variables = {
            "RAMSEY_PROFILE": "staging",
            "RAMSEY_DATABASE__URL": database,
            "RAMSEY_ENGINE__HOST": life.enter_context(fake_node()),
            "RAMSEY_ENGINE__LAUNCH": "false",
            "RAMSEY_MODEL__MODELFILE": "none",
            "RAMSEY_MODEL__RELEASE": "v1.1",
        }
        ports = [free_port(), free_port()]
        folders = [tmp_path / "first", tmp_path / "second"]
        for folder in folders:
            folder.mkdir()
        replicas = [
            life.enter_context(Replica(folder, port, **variables)) for folder, port in zip(folders, ports, strict=True)
        ]
        for replica in replicas:
            _await_ready(replica)
        url = life.enter_context(nginx_before(ports, tmp_path))
        crowd = life.enter_context(ThreadPoolExecutor(CALLERS))
        life.callback(over.set)
        calling = [crowd.submit(calls, caller, url, key) for caller in range(CALLERS)]
        while len(told) < 2 * CALLERS:
            time.sleep(0.02)
        asyncio.run(_move_on(database))  # the new tables come first; the old version still serves on both gateways
        words = [word for replica in replicas for word in (replica.url, replica.restart_command())]
        done = subprocess.run(
            [SCRIPT, "--settle", "0", *words], capture_output=True, text=True, check=False, timeout=100
        )
        seen = len(told)
        while len(told) < seen + 2 * CALLERS:
            time.sleep(0.02)
        over.set()
        for each in calling:
            each.result()
        assert (done.returncode, done.stderr) == (0, "")
        assert [len(replica.statuses) for replica in replicas] == [1, 1]
    assert [answer for answer in told if answer != "whole"] == []
    for replica in replicas:
        assert set(replica.statuses) == {0}
        assert replica.logged("draining")[0]["in_flight"], "nothing ran when it was restarted: the test shows nothing"
        assert len(replica.logged("request")) > CALLERS


def _await_ready(replica: Replica) -> None:
    deadline = time.monotonic() + 20
    while not hasattr(replica, "process"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    wait_for(replica.url + "/health/ready", replica.process, replica.log)


def _restart(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([SCRIPT, *words], capture_output=True, text=True, check=False, timeout=30)


def test_nothing_is_restarted_unless_every_gateway_is_ready(tmp_path: Path) -> None:
    url, touched = f"http://127.0.0.1:{free_port()}", tmp_path / "touched"
    told = _restart(url, f"touch {touched}", url, "true")
    assert told.returncode == 1
    assert f"{url} is not ready (" in told.stderr
    assert "Nothing was restarted" in told.stderr
    assert not touched.exists()


@pytest.mark.parametrize("command", ["exit 3", "true"])
def test_a_gateway_that_does_not_come_back_stops_the_rest(tmp_path: Path, command: str) -> None:
    """The second gateway is never touched; `true` stands for a restart after which nothing answers."""
    touched = tmp_path / "touched"
    with fake_health(tmp_path) as (url, stop):
        words = f"{stop}; {command}" if command == "true" else command
        told = _restart("--timeout", "1", url, words, url, f"touch {touched}")
    assert told.returncode == 1
    assert "was not restarted" in told.stderr if command == "exit 3" else "is not ready after 1 s" in told.stderr
    assert "Not restarted, and still serving as before" in told.stderr
    assert not touched.exists()


@contextmanager
def fake_health(folder: Path) -> Iterator[tuple[str, str]]:
    """Something that says it is ready, and the command that ends it."""
    port = free_port()
    (folder / "health").mkdir()
    (folder / "health" / "ready").touch()
    words = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]
    log = folder / "log"
    with log.open("wb") as output, subprocess.Popen(words, stdout=output, stderr=output) as process:
        url = f"http://127.0.0.1:{port}"
        wait_for(url, process, log)
        yield url, f"kill {process.pid}"
        process.terminate()

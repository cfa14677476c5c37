"""The launcher against real processes; `ollama` is a small program that answers as it does."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path

import psutil
import pytest

from deployment.embedded import NodeOptions
from deployment.engines.launching import Found, Presence, launch, probe, running
from deployment.engines.launching.recipe import embedded_command, ollama_environment
from deployment.errors import StartupError
from deployment.settings import EngineKind, Settings, load

OLLAMA = """\
#!{python} -I
# What the launcher needs of `ollama serve`; its environment goes to a file, its first word into its log.
import http.server, json, os, subprocess, sys
print("serving", sys.argv[1:], flush=True)
with open({environment!r}, "w") as file:
    json.dump(dict(os.environ), file)
{extra}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{{"version":"0.33.0"}}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
host, _, port = os.environ["OLLAMA_HOST"].rpartition(":")
http.server.ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
"""


@pytest.fixture
def url() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def settings(tmp_path: Path, url: str) -> Settings:
    return load(data_dir=tmp_path / "data", engine={"host": url, "start_timeout": 20.0})


@pytest.fixture
def seen(tmp_path: Path) -> Path:
    return tmp_path / "environment.json"


@pytest.fixture
def install(tmp_path: Path, seen: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put an `ollama` first on the PATH, with some more Python in it."""

    def put(extra: str = "") -> None:
        program = tmp_path / "bin" / "ollama"
        program.parent.mkdir(exist_ok=True)
        text = OLLAMA.format(python=sys.executable, environment=str(seen), extra=textwrap.dedent(extra))
        program.write_text(text)
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    return put


@asynccontextmanager
async def answering(url: str, answer: bytes) -> AsyncIterator[None]:
    """A server that gives every request the same answer, or none."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline() not in (b"\r\n", b""):
            pass
        if answer:
            writer.write(answer)
            await writer.drain()
        else:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", int(url.rpartition(":")[2]))
    try:
        yield
    finally:
        server.close()


def http(body: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n{body}".encode()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_an_engine_that_answers_is_used_and_left_alone(settings: Settings, url: str) -> None:
    async with answering(url, http('{"version":"0.31.2"}')):
        engine = await launch(settings)
        assert (engine.url, engine.kind, engine.version) == (url, EngineKind.OLLAMA, "0.31.2")
        assert (engine.started_by_us, engine.pid, engine.log_path) == (False, None, None)
        await engine.stop()
        assert await probe(url) == Found(Presence.ENGINE, EngineKind.OLLAMA, "0.31.2")


async def test_an_ollama_on_the_path_is_started_and_stopped(
    settings: Settings, url: str, install: Callable[[str], None], seen: Path
) -> None:
    install("")
    async with running(settings) as engine:
        assert engine.started_by_us
        assert (engine.kind, engine.version) == (EngineKind.OLLAMA, "0.33.0")
        assert engine.pid is not None
        assert os.getpgid(engine.pid) == engine.pid  # Ctrl-C at the terminal doesn't reach it
        assert engine.log_path is not None
        assert "serving ['serve']" in engine.log_path.read_text()
        pid = engine.pid
    assert gone(pid)
    assert (await probe(url)).presence is Presence.NOBODY
    environment = json.loads(seen.read_text())
    assert environment["OLLAMA_HOST"] == url.removeprefix("http://")
    assert environment["OLLAMA_NO_CLOUD"] == "1"


def test_ollama_gets_a_sane_environment(settings: Settings) -> None:
    base = {
        "PATH": "/bin",
        "HOME": "/proc/nowhere",
        "OLLAMA_FLASH_ATTENTION": "1",
        "OLLAMA_NUM_PARALLEL": "99",
        "OLLAMA_DEBUG_LOG_REQUESTS": "1",
        "LLAMA_API_KEY": "x",
        "RAMSEY_ACCESS__KEYS": "[]",
    }
    assert ollama_environment(settings, "http://localhost:11434", base) == {
        "PATH": "/bin",
        "HOME": str(settings.data_dir / "home"),
        "LLAMA_ARG_CACHE_RAM": "512",
        "OLLAMA_HOST": "127.0.0.1:11434",
        "OLLAMA_NO_CLOUD": "1",
        "OLLAMA_KEEP_ALIVE": "-1",
        "OLLAMA_NUM_PARALLEL": "4",
        "OLLAMA_MAX_LOADED_MODELS": "3",
        "OLLAMA_MAX_QUEUE": "512",
        "OLLAMA_CONTEXT_LENGTH": "4096",
        "OLLAMA_MODELS": str(settings.data_dir / "models"),
        "OLLAMA_FLASH_ATTENTION": "1",
    }


def test_every_option_of_the_embedded_engine_is_given(settings: Settings, url: str) -> None:
    flags = [word.partition("=")[0] for word in embedded_command(settings, url) if "=" in word]
    names = {flag.removeprefix("--").replace("-", "_") for flag in flags}
    assert names == {field.name for field in fields(NodeOptions)} | {"log_level"}


async def test_the_embedded_engine_is_started_where_there_is_no_ollama(
    settings: Settings, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("RAMSEY_ACCESS__KEYS", "[]")
    async with running(settings) as engine:
        assert (engine.kind, engine.started_by_us) == (EngineKind.EMBEDDED, True)
        assert engine.pid is not None
        assert not any(name.startswith("RAMSEY_") for name in psutil.Process(engine.pid).environ())
        assert (await probe(url)).kind is EngineKind.EMBEDDED
        wanted = settings.model_copy(update={"engine": settings.engine.model_copy(update={"kind": EngineKind.OLLAMA})})
        with pytest.raises(StartupError, match=r"engine\.kind is ollama"):
            await launch(wanted)
    assert (await probe(url)).presence is Presence.NOBODY


async def test_an_ollama_is_not_taken_for_the_embedded_engine(settings: Settings, url: str) -> None:
    wanted = settings.model_copy(update={"engine": settings.engine.model_copy(update={"kind": EngineKind.EMBEDDED})})
    async with answering(url, http('{"version":"0.31.2"}')):
        with pytest.raises(StartupError, match="An Ollama answers"):
            await launch(wanted)


async def test_a_missing_ollama_is_told_with_the_mend(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    wanted = settings.model_copy(update={"engine": settings.engine.model_copy(update={"kind": EngineKind.OLLAMA})})
    with pytest.raises(StartupError, match="no `ollama` on the PATH") as caught:
        await launch(wanted)
    assert "RAMSEY_ENGINE__KIND=embedded" in str(caught.value.hint)


@pytest.mark.parametrize("answer", [http("hello"), http("{}"), b"SSH-2.0-OpenSSH_9.2\r\n"])
async def test_a_stranger_on_the_port_is_told(settings: Settings, url: str, answer: bytes) -> None:
    async with answering(url, answer):
        with pytest.raises(StartupError, match="that is not Ollama") as caught:
            await launch(settings)
    assert "RAMSEY_ENGINE__HOST=http://127.0.0.1:" in str(caught.value.hint)


async def test_a_silent_port_gets_its_time_and_is_then_told(settings: Settings, url: str) -> None:
    hurried = settings.engine.model_copy(update={"start_timeout": 0.1})
    async with answering(url, b""):
        with pytest.raises(StartupError, match="has not answered"):
            await launch(settings.model_copy(update={"engine": hurried}))


@pytest.mark.parametrize(
    ("changed", "hint"),
    [({"launch": False}, "RAMSEY_ENGINE__LAUNCH=true"), ({"host": "http://192.0.2.1:1"}, "http://127.0.0.1 only")],
)
async def test_nobody_there_and_none_may_be_started(settings: Settings, changed: dict[str, object], hint: str) -> None:
    wanted = settings.model_copy(update={"engine": settings.engine.model_copy(update=changed)})
    with pytest.raises(StartupError, match="No engine answers") as caught:
        await launch(wanted)
    assert hint in str(caught.value.hint)


async def test_a_child_that_dies_at_its_start_is_told_with_its_last_words(
    settings: Settings, install: Callable[[str], None]
) -> None:
    install("""
        print("first\\nError: no room for the key", file=sys.stderr)
        sys.exit(3)
    """)
    with pytest.raises(StartupError, match=r"status 3.*no room for the key") as caught:
        await launch(settings)
    assert "engine.log" in str(caught.value.hint)


async def test_a_child_that_never_answers_is_stopped(settings: Settings, install: Callable[[str], None]) -> None:
    install("""
        import time
        print("pid", os.getpid(), flush=True)
        time.sleep(600)
    """)
    hurried = settings.engine.model_copy(update={"start_timeout": 1.0})
    with pytest.raises(StartupError, match="doesn't answer"):
        await launch(settings.model_copy(update={"engine": hurried}))
    words = (settings.data_dir / "logs" / "engine.log").read_text().split()
    assert gone(int(words[words.index("pid") + 1]))


async def test_a_data_dir_that_cannot_be_written_is_told(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match="Cannot write"):
        await launch(settings.model_copy(update={"data_dir": tmp_path / "file" / "data"}))


async def test_a_crashed_child_is_started_again(settings: Settings, install: Callable[[str], None]) -> None:
    install("")
    async with running(settings) as engine:
        first = engine.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: engine.pid not in (None, first))
        again = engine.pid
        assert again is not None
        async with asyncio.timeout(20):
            while (await probe(engine.url)).presence is not Presence.ENGINE:
                await asyncio.sleep(0.02)
    assert gone(again)


async def test_stopping_takes_the_childs_own_children_along(
    settings: Settings, install: Callable[[str], None], seen: Path
) -> None:
    install(
        """
        runner = subprocess.Popen(["sleep", "600"])
        open({!r}, "w").write(str(runner.pid))
    """.format(str(seen.with_name("runner")))
    )
    async with running(settings):
        runner = int(seen.with_name("runner").read_text())
        assert not gone(runner)
    await until(lambda: gone(runner))


async def test_two_launchers_start_one_engine(settings: Settings, install: Callable[[str], None]) -> None:
    install("")
    engines = await asyncio.gather(launch(settings), launch(settings))
    try:
        assert sorted(engine.started_by_us for engine in engines) == [False, True]
    finally:
        for engine in engines:
            await engine.stop()


PARENT = """
import asyncio, sys
from deployment.engines.launching import running
from deployment.settings import load

async def main():
    async with running(load()) as engine:
        print(engine.pid, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.fixture
def parent(settings: Settings) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a process that launches an engine of a kind, and prints the engine's pid."""
    started: list[subprocess.Popen[str]] = []

    def start(kind: str) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "PYTHONPATH": "src",
            "RAMSEY_DATA_DIR": str(settings.data_dir),
            "RAMSEY_ENGINE__HOST": settings.engine.host,
            "RAMSEY_ENGINE__KIND": kind,
        }
        command = [sys.executable, "-c", PARENT]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("kind", ["ollama", "embedded"])
async def test_kill_9_of_the_parent_leaves_no_engine(
    install: Callable[[str], None], parent: Callable[[str], "subprocess.Popen[str]"], kind: str
) -> None:
    install("")
    process = parent(kind)
    assert process.stdout
    pid = int(await asyncio.to_thread(process.stdout.readline))
    assert not gone(pid)
    process.kill()
    await until(lambda: gone(pid))

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.support.stack import ROOT, clean_environment, free_port

SECONDS = 60


@dataclass
class Machine:
    """A data directory, two free ports, and the command `ramsey` on them."""

    data_dir: Path
    port: int = field(default_factory=free_port)
    engine_port: int = field(default_factory=free_port)
    variables: dict[str, str] = field(default_factory=dict)
    started: list["subprocess.Popen[str]"] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        own = {
            "RAMSEY_DATA_DIR": str(self.data_dir),
            "RAMSEY_SERVER__PORT": str(self.port),
            "RAMSEY_ENGINE__HOST": f"http://127.0.0.1:{self.engine_port}",
            "RAMSEY_ENGINE__KIND": "embedded",
        }
        return clean_environment(**{**own, **self.variables})

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "deployment", *words]

    def ramsey(self, *words: str, said: str | None = None) -> "subprocess.CompletedProcess[str]":
        """Run a verb to its end."""
        return subprocess.run(
            self.command(*words),
            cwd=ROOT,
            env=self.environment,
            input=said,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Start a verb that stays."""
        process = subprocess.Popen(
            self.command(*words),
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process

    def up(self, *words: str) -> tuple["subprocess.Popen[str]", str]:
        """`ramsey up`, and what it said until it was ready."""
        process = self.start("up", *words)
        assert process.stdout
        said = ""
        for line in process.stdout:
            said += line
            if "stops everything" in line:
                return process, said
        raise AssertionError(f"up ended with {process.wait()}:\n{said}")

    def end(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            try:
                process.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()

    def is_free(self, port: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path / "data")
    yield machine
    machine.end()


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One `ramsey up` for all tests that only ask it."""
    machine = Machine(tmp_path_factory.mktemp("running") / "data")
    machine.up()
    yield machine
    machine.end()

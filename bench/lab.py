"""What a section works with: the upstream, contenders that are stopped at the end, and the load generator."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.contenders import Contender, Missing
from bench.load import Spec
from bench.machine import PYTHON, RUN, Process, cores, free_port

OPENAI_PATH = "/v1/chat/completions"


def say(text: str) -> None:
    """What goes on, to whoever waits."""
    print(text, file=sys.stderr, flush=True)


@dataclass
class Lab:
    """One run's workbench. `with Lab() as lab:` stops everything that it started."""

    missing: set[str] = field(default_factory=set)
    """What could not run, and how to get it."""
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __enter__(self) -> "Lab":
        port = free_port()
        self.upstream = f"http://127.0.0.1:{port}"
        command = [PYTHON, "-m", "bench.upstream", "--port", str(port)]
        self.process = Process("upstream", command, cores()[1])
        self._stack.callback(self.process.stop)
        self.process.wait_until(self.upstream + "/api/version")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def running(self, make: Any, *arguments: Any, **options: Any) -> Iterator[Contender | None]:
        """A contender for a while; None, with a word, when it cannot run."""
        try:
            contender = make(*arguments, **options)
        except (Missing, RuntimeError) as problem:
            self.missing.add(str(problem))
            say(f"  left out: {problem}")
            yield None
            return
        try:
            yield contender
        finally:
            contender.process.stop()

    def direct(self) -> Contender:
        """No gateway: the upstream itself."""
        return Contender("direct", self.process, self.upstream)

    def load(self, contender: Contender, ask: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
        """Load a contender with chat completions, from the load generator's own core."""
        return measure(chat(contender, ask, **spec))


def chat(contender: Contender, ask: dict[str, Any] | None = None, **spec: Any) -> Spec:
    """Chat completions for a contender; `ask` are more fields of the request."""
    body: dict[str, Any] = {"model": contender.model, "messages": [{"role": "user", "content": "Say hello, {n}."}]}
    spec.setdefault("path", contender.path)
    return Spec(
        contender.url, body=json.dumps(body | (ask or {})), headers=contender.headers, pid=contender.pid, **spec
    )


def measure(spec: Spec, module: str = "bench.load") -> dict[str, Any]:
    """Run the load generator. Raises RuntimeError with what it said when it fails."""
    log = RUN / "load.log"
    command = ["taskset", "-c", ",".join(map(str, cores()[2])), PYTHON, "-m", module, json.dumps(asdict(spec))]
    limit = spec.seconds + spec.warmup + 60
    with log.open("wb") as errors:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, timeout=limit, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the load generator failed:\n{log.read_text()[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result

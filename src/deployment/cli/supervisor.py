"""What `ramsey up` does: engine, model, gateway, one after the other; then wait, and take all of it down again."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import structlog

from deployment import __version__
from deployment.cli.claim import Claim, Running, claimed
from deployment.cli.gateway import Gateway, address
from deployment.cli.output import Phases, print_json
from deployment.clock import SystemClock
from deployment.engines import RunningEngine, launch, tethered
from deployment.errors import RamseyError, StartupError
from deployment.ollama_client import OllamaClient
from deployment.releases import Release, check_model, deploy
from deployment.settings import Settings, api_key, environment

_POLL_S = 0.05
_READY_S = 120.0
_AFTER_DRAIN_S = 10.0
_ASK_S = 180.0
_LAST_LINES = 5


@dataclass(frozen=True)
class Options:
    """The flags of `ramsey up`. `server` holds host and port where they were given."""

    config: Path | None = None
    server: dict[str, Any] = field(default_factory=dict)
    logs: bool = False
    as_json: bool = False
    detached: bool = False


@dataclass
class Interrupts:
    """Ctrl-C, SIGTERM or a closed terminal: once to stop well, twice to stop now."""

    once: asyncio.Event = field(default_factory=asyncio.Event)
    twice: asyncio.Event = field(default_factory=asyncio.Event)

    def listen(self) -> None:
        """Take the signals."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        (self.twice if self.once.is_set() else self.once).set()


async def run(settings: Settings, options: Options) -> int:
    """Start everything, wait for Ctrl-C, stop everything. The exit status.

    Raises RamseyError when something cannot be started; by then nothing runs any more.
    """
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(30),  # warnings, for instance that the engine died
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    interrupts = Interrupts()
    interrupts.listen()
    settings = _with_port(settings)
    phases = Phases(silent=options.as_json)
    since = SystemClock().now().isoformat()
    with claimed(settings.data_dir, Running(os.getpid(), since, detached=options.detached)) as claim:
        _require_free(settings)
        check_model(settings)
        async with AsyncExitStack() as stack:
            starting = asyncio.create_task(_start(settings, options, stack, phases, interrupts))
            if await _first(starting, interrupts.once.wait()):
                gateway, running = starting.result()
                await _serve(gateway, replace(running, since=since), claim, settings, options, phases, interrupts)
                phases.say("\nStopping: streams in flight may end. Ctrl-C again stops at once.")
            began = time.perf_counter()
        phases.say(f"Stopped in {time.perf_counter() - began:.1f} s.")
    return 0


async def _serve(
    gateway: "_Gateway",
    running: Running,
    claim: Claim,
    settings: Settings,
    options: Options,
    phases: Phases,
    interrupts: Interrupts,
) -> None:
    answer = await asyncio.to_thread(_ask, settings, running.url)
    if options.as_json:
        print_json({"url": running.url, "engine": running.engine, "release": running.release, "s": phases.seconds})
    _welcome(settings, running.url, answer, phases, detached=options.detached)
    claim.announce(replace(running, detached=options.detached))
    died = asyncio.create_task(gateway.process.wait())
    if await _first(died, interrupts.once.wait()):
        raise StartupError(
            f"The gateway ended by itself ({_ending(died.result())}). {gateway.last_lines()}".strip(),
            hint="Everything was stopped. Start it again: ramsey up",
        )


async def _start(
    settings: Settings, options: Options, stack: AsyncExitStack, phases: Phases, interrupts: Interrupts
) -> tuple["_Gateway", Running]:
    phases.say(
        f"[bold]Ramsey {__version__}[/bold]  [dim]{settings.profile.value}, state in {settings.data_dir}[/dim]\n"
    )
    engine: RunningEngine | None = None
    urls = [node.url for node in settings.pool.nodes]
    described = f"{len(urls)} nodes"
    with phases.phase("Engine") as phase:
        if not urls and not settings.pool.dns:
            engine = await launch(settings)
            stack.push_async_callback(engine.stop)
            urls = [engine.url]
            described = f"{engine.kind.value} {engine.version} at {engine.url}"
        phase.detail = described if engine is None or engine.started_by_us else f"{described} (was there)"
    release = None
    if urls:
        with phases.phase("Model") as phase:
            for url in urls:
                release = await _deploy(url, settings)
                phase.detail = release.name
    with phases.phase("Gateway") as phase:
        gateway = await stack.enter_async_context(_gateway(settings, options, engine, interrupts))
        await gateway.until_ready()
        phase.detail = gateway.url
    return gateway, Running(os.getpid(), "", gateway.url, described, release.name if release else "")


async def _deploy(url: str, settings: Settings) -> Release:
    async with OllamaClient(url) as client:
        return await deploy(client, settings)


# --- the gateway's process -------------------------------------------------------------------------------


class _Gateway:
    """`python src/deployment/api.py` as a child, at `url`."""

    def __init__(self, process: Process, url: str, log: Path | None) -> None:
        self.process = process
        self.url = url
        self._log = log
        self._begin = 0

    async def until_ready(self) -> None:
        """Wait until it takes work. Raises StartupError with its last words when it ends instead."""
        gateway = Gateway(self.url, timeout_s=5.0)
        loop = asyncio.get_running_loop()
        end = loop.time() + _READY_S
        reason = ""
        while loop.time() < end:
            if self.process.returncode is not None:
                raise StartupError(f"The gateway ended while it started. {self.last_lines()}".strip())
            with contextlib.suppress(RamseyError):
                status, told = await asyncio.to_thread(gateway.status, "/health/ready")
                if status == 200:
                    return
                reason = str(told.get("reason", ""))
            await asyncio.sleep(_POLL_S)
        raise StartupError(f"The gateway is not ready after {_READY_S:g} s. {reason}".strip())

    def last_lines(self) -> str:
        """The end of its log."""
        if self._log is None:
            return ""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return f"It said: {' / '.join(lines[-_LAST_LINES:])}" if lines else "It said nothing."


@asynccontextmanager
async def _gateway(
    settings: Settings, options: Options, engine: RunningEngine | None, interrupts: Interrupts
) -> AsyncIterator[_Gateway]:
    spec = find_spec("deployment.api")
    if spec is None or spec.origin is None:
        raise StartupError("The gateway's program is missing.", hint="Install Ramsey again.")
    variables = _variables(settings, options, engine)
    log = None if options.logs else settings.data_dir / "logs" / "gateway.log"
    with contextlib.ExitStack() as files:
        output = None
        if log:
            log.parent.mkdir(parents=True, exist_ok=True)
            output = files.enter_context(log.open("wb"))
        process = await asyncio.create_subprocess_exec(
            *tethered((sys.executable, spec.origin), variables),
            env=variables,
            stdin=DEVNULL,
            stdout=output,
            stderr=STDOUT if output else None,
            start_new_session=True,  # Ctrl-C comes to us alone, and we end it in order
        )
    url = address(settings.server.host, settings.server.port)
    try:
        yield _Gateway(process, url, log)
    finally:
        await _stop(process, settings, interrupts)


def _variables(settings: Settings, options: Options, engine: RunningEngine | None) -> dict[str, str]:
    """The gateway reads the same settings; what we decided is over them."""
    variables = environment()
    variables["RAMSEY_SERVER__HOST"] = settings.server.host
    variables["RAMSEY_SERVER__PORT"] = str(settings.server.port)
    if options.config:
        variables["RAMSEY_CONFIG"] = str(options.config)
    if engine:
        variables["RAMSEY_ENGINE__HOST"] = engine.url
        variables["RAMSEY_ENGINE__LAUNCH"] = "false"
    return variables


async def _stop(process: Process, settings: Settings, interrupts: Interrupts) -> None:
    if process.returncode is None:
        process.terminate()
        limit = settings.server.drain_seconds + settings.server.drain_notice_seconds + _AFTER_DRAIN_S
        ended = asyncio.create_task(process.wait())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(_first(ended, interrupts.twice.wait()), limit)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


# --- small things ----------------------------------------------------------------------------------------


async def _first(task: "asyncio.Task[Any]", other: Any) -> bool:
    """Wait for either; whether it was the task, whose error is raised. The loser is cancelled."""
    rival = asyncio.ensure_future(other)
    try:
        await asyncio.wait({task, rival}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            return True
        return False
    finally:
        for each in (task, rival):
            each.cancel()
            with contextlib.suppress(asyncio.CancelledError, RamseyError):
                await each


def _with_port(settings: Settings) -> Settings:
    """Port 0 means a free one; we have to know which."""
    if settings.server.port:
        return settings
    with socket.create_server((settings.server.host, 0)) as free:
        port = free.getsockname()[1]
    return settings.model_copy(update={"server": settings.server.model_copy(update={"port": port})})


def _require_free(settings: Settings) -> None:
    """The gateway's port must be free, before anything is started."""
    server = settings.server
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((server.host, server.port))
            probe.listen()
        except OSError as error:
            who = _who_answers(address(server.host, server.port))
            reason = f"{who} at {server.host}:{server.port}." if who else f"{error.strerror or error}."
            raise StartupError(
                f"Cannot listen on {server.host}:{server.port}: {reason}",
                hint=f"Stop it, or choose another port: ramsey up --port {_next(server.port)}",
            ) from None


def _who_answers(url: str) -> str:
    try:
        _, told = Gateway(url, timeout_s=2.0).status("/health/live")
    except RamseyError:
        return "another program is there"
    return "another Ramsey answers" if told.get("status") == "alive" else "another program answers"


def _next(port: int) -> int:
    return port + 1 if port < 65535 else 8000


def _ask(settings: Settings, url: str) -> str | None:
    """Show that it answers; None where that needs a key and there is none."""
    key = api_key()
    if key is None and settings.access.keys and settings.profile != "development":
        return None
    told = Gateway(url, key, timeout_s=_ASK_S).post("/generate", {"prompt": _prompt(settings), "max_tokens": 64})
    return " ".join(str(told.get("response", "")).split())


def _prompt(settings: Settings) -> str:
    return "What is R(3,3)?" if settings.model.name == "ramsey-model" else "Hello! Who are you?"


def _welcome(settings: Settings, url: str, answer: str | None, phases: Phases, *, detached: bool) -> None:
    from rich.markup import escape

    key = ' -H "Authorization: Bearer $RAMSEY_API_KEY"' if answer is None else ""
    phases.say(f"\nReady in {sum(phases.seconds.values()):.1f} s. Try it:\n")
    phases.say(
        f'  [cyan]curl -X POST {url}/generate -H "Content-Type: application/json"{key} '
        f'-d \'{{"prompt": "{_prompt(settings)}"}}\'[/cyan]'
    )
    if answer is not None:
        phases.say(f"  [dim]{escape(answer[:150])}{'…' if len(answer) > 150 else ''}[/dim]")
    ending = f"`{_program()} down` stops it." if detached else "Ctrl-C stops everything."
    phases.say(f"\nChat: {_program()} chat   API: {url}/docs   Logs: {settings.data_dir / 'logs'}\n{ending}")


def _program() -> str:
    """How the person calls us: `ramsey`, or its path where that is not on the PATH."""
    if shutil.which("ramsey", path=environment().get("PATH")):
        return "ramsey"
    here = Path(sys.executable).with_name("ramsey")
    return str(here.relative_to(Path.cwd())) if here.is_relative_to(Path.cwd()) else str(here)


def _ending(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"status {status}"

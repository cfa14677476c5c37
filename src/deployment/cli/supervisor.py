"""What `ramsey up` does: engine, model, gateway, one after the other; then wait, and take all of it down again."""

import asyncio
import errno
import os
import shutil
import socket
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import structlog

from deployment import __version__
from deployment.cli.claim import Claim, Running, claimed
from deployment.cli.gateway import Gateway, address
from deployment.cli.gateway_process import GatewayProcess, Interrupts, ending_of, first_of, gateway_process
from deployment.cli.output import Phases, print_json
from deployment.clock import SystemClock
from deployment.engines import RunningEngine, launch
from deployment.errors import RamseyError, StartupError
from deployment.gateway.listener import bind
from deployment.ollama_client import OllamaClient
from deployment.preflight import require_startable
from deployment.releases import Release, deploy
from deployment.settings import Profile, Settings, api_key, environment, shown_url

_ASK_S = 180.0
_REFUSALS = frozenset({"unauthenticated", "forbidden", "rate_limited"})
"""What says nothing of the service, but of who asks it."""


@dataclass(frozen=True)
class Options:
    """The flags of `ramsey up`. `server` holds host and port where they were given."""

    config: Path | None = None
    server: dict[str, Any] = field(default_factory=dict)
    logs: bool = False
    as_json: bool = False
    detached: bool = False


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
        await require_startable(settings)  # the gateway would refuse: say so before an engine is started
        async with AsyncExitStack() as stack:
            starting = asyncio.create_task(_start(settings, options, stack, phases, interrupts))
            if await first_of(starting, interrupts.once.wait()):
                gateway, running = starting.result()
                await _serve(gateway, replace(running, since=since), claim, settings, options, phases, interrupts)
                phases.say("\nStopping: streams in flight may end. Ctrl-C again stops at once.")
            began = time.perf_counter()
        phases.say(f"Stopped in {time.perf_counter() - began:.1f} s.")
    return 0


async def _serve(
    gateway: GatewayProcess,
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
    if await first_of(died, interrupts.once.wait()):
        raise StartupError(
            f"The gateway ended by itself ({ending_of(died.result())}). {gateway.last_lines()}".strip(),
            hint="Everything was stopped. Start it again: ramsey up",
        )


async def _start(
    settings: Settings, options: Options, stack: AsyncExitStack, phases: Phases, interrupts: Interrupts
) -> tuple[GatewayProcess, Running]:
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
            described = f"{engine.kind.value} {engine.version} at {shown_url(engine.url)}"
        phase.detail = described if engine is None or engine.started_by_us else f"{described} (was there)"
    release = None
    if urls:
        with phases.phase("Model") as phase:
            for url in urls:
                release = await _deploy(url, settings)
                phase.detail = release.name
    with phases.phase("Gateway") as phase:
        variables = _variables(settings, options, engine)
        child = gateway_process(settings, variables, interrupts, logs=options.logs)
        gateway = await stack.enter_async_context(child)
        await gateway.until_ready()
        phase.detail = gateway.url
    return gateway, Running(os.getpid(), "", gateway.url, described, release.name if release else "")


async def _deploy(url: str, settings: Settings) -> Release:
    async with OllamaClient(url) as client:
        return await deploy(client, settings)


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


# --- small things ----------------------------------------------------------------------------------------


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
    try:
        bind(server).close()
    except StartupError as error:
        if getattr(error.__cause__, "errno", None) != errno.EADDRINUSE:
            raise
        who = _who_answers(address(server), server.tls_cert)
        raise StartupError(
            f"Cannot listen on {server.host}:{server.port}: {who} at {server.host}:{server.port}.",
            hint=f"Stop it, or choose another port: ramsey up --port {_next(server.port)}",
        ) from None


def _who_answers(url: str, certificate: Path | None) -> str:
    try:
        _, told = Gateway(url, timeout_s=2.0, certificate=certificate).status("/health/live")
    except RamseyError:
        return "another program is there"
    return "another Ramsey answers" if told.get("status") == "alive" else "another program answers"


def _next(port: int) -> int:
    return port + 1 if port < 65535 else 8000


def _ask(settings: Settings, url: str) -> str | None:
    """Show that it answers, or why it does not answer us, who may have used up a limit: it serves all the same.
    None where that needs a key and there is none."""
    key = api_key()
    if key is None and settings.profile is not Profile.DEVELOPMENT:
        return None
    gateway = Gateway(url, key, _ASK_S, settings.server.tls_cert)
    try:
        told = gateway.post("/generate", {"prompt": _prompt(settings), "max_tokens": 64})
    except RamseyError as error:
        if error.code not in _REFUSALS:
            raise
        return f"It refuses this now: {error.message}"
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

"""Which engine answers: one that is there, an `ollama` started as a child, or the embedded engine as a child.

A child belongs to its parent: it is stopped with it, dies with it even at `kill -9`, and is started again
when it crashes.
"""

import asyncio
import contextlib
import fcntl
import ipaddress
import os
import shutil
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import structlog

from deployment.errors import EngineError, EngineTimeout, RamseyError, StartupError
from deployment.ollama_client import OllamaClient, Timeouts
from deployment.settings import EngineKind, Settings, environment

_EMBEDDED_MARK = "ramsey"  # what the embedded engine adds to its /api/version
_PROBE = Timeouts(connect=1.0, first_token=2.0, token=2.0, total=2.0)
_POLL_S = 0.05
_STOP_S = 10.0
_DRAIN_S = 5.0  # by then the gateway has drained; this is for whoever speaks to the engine itself
_FIRST_BACKOFF_S, _LAST_BACKOFF_S = 0.5, 30.0
_STEADY_S = 60.0  # a child that lived so long starts again without having to wait long
_PROMPT_CACHE_MIB = "512"  # llama.cpp's own default is 8 GiB for each model, outside Ollama's estimate of memory
_LOG_BYTES = 10 * 1024 * 1024
_LAST_LINES = 5
# They would put prompts on disk, or lock Ollama out of its own runner.
_HARMFUL = {"OLLAMA_DEBUG_LOG_REQUESTS", "LLAMA_API_KEY"}

_log = structlog.get_logger("engine")


class Presence(StrEnum):
    """Who is at an address."""

    ENGINE = "engine"
    NOBODY = "nobody"
    SILENT = "silent"  # takes connections and doesn't answer: an Ollama that is starting, perhaps
    STRANGER = "stranger"


@dataclass(frozen=True, slots=True)
class Found:
    """What a probe saw. `kind` and `version` are an engine's."""

    presence: Presence
    kind: EngineKind = EngineKind.OLLAMA
    version: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a child is started."""

    kind: EngineKind
    command: tuple[str, ...]
    environment: Mapping[str, str]


class RunningEngine:
    """An engine that answers at `url`. `stop()` ends it where we started it."""

    def __init__(self, url: str, found: Found, child: "_Child | None" = None) -> None:
        self.url = url
        self.kind = found.kind
        self.version = found.version
        self._child = child

    @property
    def started_by_us(self) -> bool:
        """Whether it is our child."""
        return self._child is not None

    @property
    def pid(self) -> int | None:
        """Our child's process id now; None for an engine that was there."""
        return self._child.pid if self._child else None

    @property
    def log_path(self) -> Path | None:
        """Where our child's output goes."""
        return self._child.log_path if self._child else None

    async def stop(self) -> None:
        """Stop our child, with everything that it started."""
        if self._child:
            await self._child.stop()


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[RunningEngine]:
    """`launch`, and `stop` at the end."""
    engine = await launch(settings)
    try:
        yield engine
    finally:
        await engine.stop()


async def launch(settings: Settings) -> RunningEngine:
    """The engine at `settings.engine.host`, started when nobody answers there.

    Raises StartupError with what to do when there is none and none can be started.
    """
    url = settings.engine.host.rstrip("/")
    _check_address(url)
    found = await _wait_while_silent(url, settings)
    if found.presence is Presence.NOBODY and settings.engine.launch and is_launchable(url):
        async with _only_one(settings):
            found = await _wait_while_silent(url, settings)  # another gateway of this machine may have been first
            if found.presence is Presence.NOBODY:
                return await _start(settings, url)
    return RunningEngine(url, _accepted(found, url, settings))


async def probe(url: str) -> Found:
    """Who is at `url`."""
    async with OllamaClient(url, timeouts=_PROBE) as client:
        try:
            answer = await client.request("GET", "/api/version")
        except EngineTimeout:
            return Found(Presence.SILENT if await _accepts(url) else Presence.NOBODY)
        except EngineError:
            return Found(Presence.STRANGER if await _accepts(url) else Presence.NOBODY)
    version = answer.get("version")
    if not isinstance(version, str) or not version:
        return Found(Presence.STRANGER)
    kind = EngineKind.EMBEDDED if _EMBEDDED_MARK in answer else EngineKind.OLLAMA
    return Found(Presence.ENGINE, kind, version)


def is_launchable(url: str) -> bool:
    """Whether an engine can be started there: plain HTTP on loopback."""
    parts = urlsplit(url)
    return parts.scheme == "http" and is_loopback(parts.hostname or "")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def plan(settings: Settings, url: str, base: Mapping[str, str]) -> Plan:
    """How to start an engine at `url`, given the environment `base`. Raises StartupError without an `ollama`."""
    ollama = shutil.which("ollama", path=base.get("PATH"))
    if settings.engine.kind is EngineKind.EMBEDDED or (settings.engine.kind is EngineKind.AUTO and not ollama):
        return Plan(EngineKind.EMBEDDED, embedded_command(settings, url), embedded_environment(base))
    if not ollama:
        raise StartupError(
            "There is no `ollama` on the PATH, and engine.kind is ollama.",
            hint="Install it (https://ollama.com/download), or take the built-in engine: RAMSEY_ENGINE__KIND=embedded.",
        )
    return Plan(EngineKind.OLLAMA, tethered((ollama, "serve"), base), ollama_environment(settings, url, base))


def tethered(command: tuple[str, ...], base: Mapping[str, str]) -> tuple[str, ...]:
    """The command such that the kernel sends it SIGTERM when its parent dies, where the machine has `setpriv`."""
    setpriv = shutil.which("setpriv", path=base.get("PATH"))
    return (setpriv, "--pdeathsig", "TERM", "--", *command) if setpriv else command


def ollama_environment(settings: Settings, url: str, base: Mapping[str, str]) -> dict[str, str]:
    """What `ollama serve` is started with. What the person has set beside these, stays."""
    engine = settings.engine
    kept = {key: value for key, value in base.items() if not key.startswith("RAMSEY_") and key not in _HARMFUL}
    home = base.get("HOME", "")
    if not home or not os.access(home, os.W_OK):  # `ollama serve` makes a key there, or ends
        home = str((settings.data_dir / "home").absolute())
    return {
        "LLAMA_ARG_CACHE_RAM": _PROMPT_CACHE_MIB,
        **kept,
        "HOME": home,
        "OLLAMA_HOST": _bind_address(url),
        "OLLAMA_NO_CLOUD": "1",
        "OLLAMA_KEEP_ALIVE": str(settings.model.keep_alive),
        "OLLAMA_NUM_PARALLEL": str(engine.num_parallel),
        "OLLAMA_MAX_LOADED_MODELS": str(engine.max_loaded_models),
        "OLLAMA_MAX_QUEUE": str(engine.max_queue),
        "OLLAMA_CONTEXT_LENGTH": str(engine.context_length),
        "OLLAMA_MODELS": str(settings.models_dir.absolute()),
    }


def embedded_command(settings: Settings, url: str) -> tuple[str, ...]:
    """The embedded engine with every option as a flag, so that it reads no settings of its own."""
    engine, parts = settings.engine, urlsplit(url)
    options = {
        "host": "127.0.0.1" if parts.hostname == "localhost" else parts.hostname,
        "port": parts.port or 80,
        "models_dir": settings.models_dir.absolute(),
        "num_parallel": engine.num_parallel,
        "max_queue": engine.max_queue,
        "max_loaded_models": engine.max_loaded_models,
        "context_length": engine.context_length,
        "keep_alive": settings.model.keep_alive,
        "threads": engine.threads,
        "gpu_layers": engine.gpu_layers,
        "load_timeout_s": settings.pool.load_timeout,
        "stall_s": engine.stall_timeout,
        "drain_s": _DRAIN_S,
        "log_level": settings.log.level.upper(),
    }
    flags = (f"--{name.replace('_', '-')}={value}" for name, value in options.items())
    return (sys.executable, "-P", "-m", "deployment.embedded", "--until-stdin-closes", *flags)


def embedded_environment(base: Mapping[str, str]) -> dict[str, str]:
    """Ours without our settings, which may hold secrets; and this package, wherever it was started from."""
    kept = {key: value for key, value in base.items() if not key.startswith("RAMSEY_")}
    package = str(Path(__file__).parents[2])
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(filter(None, (package, base.get("PYTHONPATH")))),
        "PYTHONUNBUFFERED": "1",
    }


# --- finding ---------------------------------------------------------------------------------------------


def _check_address(url: str) -> None:
    try:
        port = urlsplit(url).port
    except ValueError:
        port = 0
    if port == 0:
        raise StartupError(
            f"The engine's address {url} has no usable port.", hint="Set RAMSEY_ENGINE__HOST=http://127.0.0.1:11434."
        )


async def _wait_while_silent(url: str, settings: Settings) -> Found:
    """Probe; an Ollama that starts opens its socket long before it answers, so give it its time."""
    loop = asyncio.get_running_loop()
    end = loop.time() + settings.engine.start_timeout
    while True:
        found = await probe(url)
        if found.presence is not Presence.SILENT or loop.time() > end:
            return found
        await asyncio.sleep(_POLL_S)


def _accepted(found: Found, url: str, settings: Settings) -> Found:
    """An engine that is there and that the settings want, or the reason why not."""
    elsewhere = f"Stop it, or put the engine elsewhere: RAMSEY_ENGINE__HOST=http://127.0.0.1:{_other_port(url)}."
    match found.presence:
        case Presence.STRANGER:
            raise StartupError(f"Something that is not Ollama answers at {url}.", hint=elsewhere)
        case Presence.SILENT:
            raise StartupError(
                f"Something at {url} takes connections and has not answered for {settings.engine.start_timeout:g} s.",
                hint=elsewhere,
            )
        case Presence.NOBODY:
            raise StartupError(f"No engine answers at {url}.", hint=_why_not_started(url))
    if settings.engine.kind is EngineKind.EMBEDDED and found.kind is EngineKind.OLLAMA:
        raise StartupError(
            f"An Ollama answers at {url}, and engine.kind is embedded.",
            hint=f"{elsewhere} Or use it: RAMSEY_ENGINE__KIND=auto.",
        )
    if settings.engine.kind is EngineKind.OLLAMA and found.kind is EngineKind.EMBEDDED:
        raise StartupError(f"The embedded engine answers at {url}, and engine.kind is ollama.", hint=elsewhere)
    return found


def _why_not_started(url: str) -> str:
    if is_launchable(url):
        return "Start one there, or let Ramsey do it: RAMSEY_ENGINE__LAUNCH=true."
    return "Start Ollama there, or correct RAMSEY_ENGINE__HOST. Ramsey starts an engine on http://127.0.0.1 only."


def _other_port(url: str) -> int:
    port = urlsplit(url).port or 11434
    return port + 1 if port < 65535 else 11434


def _bind_address(url: str) -> str:
    parts = urlsplit(url)
    host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname
    return f"[{host}]:{parts.port or 80}" if ":" in (host or "") else f"{host}:{parts.port or 80}"


async def _accepts(url: str) -> bool:
    """Whether somebody takes connections there."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(parts.hostname, port), _PROBE.connect)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


# --- starting --------------------------------------------------------------------------------------------


@asynccontextmanager
async def _only_one(settings: Settings) -> AsyncIterator[None]:
    """One launcher at a time on one data_dir: gateways that start together must not start two engines."""
    loop = asyncio.get_running_loop()
    end = loop.time() + settings.engine.start_timeout
    with _opened(settings.data_dir / "engine.lock") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if loop.time() > end:
                    raise StartupError(
                        f"Another Ramsey has been starting an engine for {settings.engine.start_timeout:g} s.",
                        hint=f"Look at {settings.data_dir / 'logs' / 'engine.log'}.",
                    ) from None
            await asyncio.sleep(_POLL_S)
        yield


async def _start(settings: Settings, url: str) -> RunningEngine:
    child = _Child(settings, url, plan(settings, url, environment()))
    try:
        found = await child.start()
    except StartupError:
        found = await probe(url)  # somebody else may have taken the port meanwhile
        if found.presence is not Presence.ENGINE:
            raise
        return RunningEngine(url, _accepted(found, url, settings))
    return RunningEngine(url, found, child)


class _Child:
    """An engine process of ours, with its process group, its log and its restarts."""

    def __init__(self, settings: Settings, url: str, plan: Plan) -> None:
        self._settings, self._url, self._plan = settings, url, plan
        self.log_path = settings.data_dir.absolute() / "logs" / "engine.log"
        self._process: Process | None = None
        self._supervision: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """None while it is being started again."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> Found:
        """Start it and wait until it answers; from then on, start it again whenever it dies."""
        found = await self._run_until_it_answers()
        self._supervision = asyncio.create_task(self._supervise())
        return found

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL, to the whole process group."""
        if self._supervision:
            self._supervision.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervision
        await self._end()

    async def _run_until_it_answers(self) -> Found:
        _prepare(self.log_path, Path(self._plan.environment.get("HOME", "/")))
        with _opened(self.log_path) as log:
            begin = log.tell()
            process = await self._spawn(log)
        self._process = process
        try:
            return await self._until_it_answers(process, begin)
        except BaseException:
            await self._end()
            raise

    async def _spawn(self, log: BinaryIO) -> Process:
        try:
            return await asyncio.create_subprocess_exec(
                *self._plan.command,
                env=self._plan.environment,
                cwd=self._settings.data_dir,  # where no ramsey.toml lies
                # The embedded engine ends when this pipe closes, which the kernel does however we die.
                stdin=PIPE if self._plan.kind is EngineKind.EMBEDDED else DEVNULL,
                stdout=log,
                stderr=STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise StartupError(f"Cannot run {self._plan.command[0]}: {error.strerror or error}.") from None

    async def _until_it_answers(self, process: Process, begin: int) -> Found:
        loop = asyncio.get_running_loop()
        limit = self._settings.engine.start_timeout
        end = loop.time() + limit
        while loop.time() < end:
            if process.returncode is not None:
                raise StartupError(
                    f"The engine ended while it started ({_ending(process.returncode)}). {self._last_lines(begin)}",
                    hint=f"Its whole output: {self.log_path}. `ramsey doctor` looks for the cause.",
                )
            found = await probe(self._url)
            if found.presence is Presence.ENGINE and process.returncode is None:
                return found
            await asyncio.sleep(_POLL_S)
        raise StartupError(
            f"The engine doesn't answer at {self._url} after {limit:g} s. {self._last_lines(begin)}",
            hint=f"Its whole output: {self.log_path}. A slow machine may need RAMSEY_ENGINE__START_TIMEOUT.",
        )

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = _FIRST_BACKOFF_S
        while True:
            began = loop.time()
            if self._process:
                status = await self._process.wait()
                _log.warning("the engine died", ending=_ending(status), restart_s=backoff, log=str(self.log_path))
                await self._end()  # what it started and left behind
            await asyncio.sleep(backoff)
            backoff = _FIRST_BACKOFF_S if loop.time() - began > _STEADY_S else min(backoff * 2, _LAST_BACKOFF_S)
            if (await probe(self._url)).presence is Presence.ENGINE:
                continue  # another one has taken over; watch until it goes
            try:
                await self._run_until_it_answers()
                _log.info("the engine is back", pid=self.pid)
            except RamseyError as error:
                _log.error("the engine cannot be started again", reason=error.message, retry_s=backoff)

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin:
            process.stdin.close()
        _signal(process.pid, signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), _STOP_S)
        except TimeoutError:
            _log.warning("the engine didn't stop; killing it", after_s=_STOP_S)
        _signal(process.pid, signal.SIGKILL)  # also whatever the leader left in its group
        await process.wait()

    def _last_lines(self, begin: int) -> str:
        with self.log_path.open("rb") as log:
            log.seek(begin)
            lines = log.read()[-4000:].decode(errors="replace").strip().splitlines()
        return f"It said: {' / '.join(lines[-_LAST_LINES:])}" if lines else "It said nothing."


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _ending(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"status {status}"


def _opened(path: Path) -> BinaryIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")
    except OSError as error:
        raise StartupError(
            f"Cannot write {path}: {error.strerror or error}.", hint="Mend its rights, or set RAMSEY_DATA_DIR."
        ) from None


def _prepare(log: Path, home: Path) -> None:
    """A home for the child, and at most one older log, so that restarts cannot fill the disk."""
    with contextlib.suppress(OSError):
        home.mkdir(parents=True, exist_ok=True)
        if log.stat().st_size > _LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))

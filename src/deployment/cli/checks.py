"""What `ramsey doctor` looks at. Each check gives what it found, and never fails itself."""

import asyncio
import errno
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from deployment.cli.claim import running
from deployment.cli.gateway import Gateway, address
from deployment.clock import SystemClock
from deployment.database import DATABASE_FILE, Database, database_url
from deployment.engines import Found, Presence, is_loopback, probe
from deployment.errors import ConfigurationError, RamseyError, StartupError
from deployment.gateway.listener import bind
from deployment.modelfile import load as load_modelfile
from deployment.ollama_client import OllamaClient, Timeouts
from deployment.preflight import refusals
from deployment.releases import check_model, local_doubts
from deployment.secret_store import looked_up
from deployment.settings import EngineKind, Settings, environment, redis_address, shown_url

State = Literal["ok", "warning", "wrong"]
OLDEST_PYTHON = (3, 11)
OLDEST_OLLAMA = (0, 20, 3)  # before it, a model file or name can do harm (CVE-2026-7482, CVE-2026-7020, …)
_GIB = 1 << 30
_LIBRARIES = {"libgomp": "libgomp1", "libstdc++": "libstdc++6"}
_ANSWER_S = 120.0
_REDIS_S = 2.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `mend` is empty where all is well."""

    name: str
    state: State
    text: str
    mend: str = ""


# --- the machine -----------------------------------------------------------------------------------------


def python() -> list[Finding]:
    """The interpreter."""
    text = f"{sys.version.split()[0]} ({sys.executable})"
    if sys.version_info < OLDEST_PYTHON:
        return [Finding("python", "wrong", text, "Ramsey needs 3.11 or newer: make PYTHON=python3.12 up")]
    return [Finding("python", "ok", text)]


def clock() -> list[Finding]:
    """A clock that is behind this very program is wrong; tokens and logs depend on it."""
    now = SystemClock().now()
    built = datetime.fromtimestamp(Path(__file__).stat().st_mtime, UTC)
    if now < built:
        mend = "Set it: timedatectl set-ntp true"
        return [Finding("clock", "wrong", f"{now:%Y-%m-%d %H:%M} UTC is before this program was installed", mend)]
    return [Finding("clock", "ok", f"{now:%Y-%m-%d %H:%M} UTC")]


def memory(settings: Settings) -> list[Finding]:
    """Room for the weights, which are held in memory, and for each slot's context."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return []  # not Linux
    needed = int(_weights_size(settings) * 1.2) + _GIB // 2
    text = f"{free / _GIB:.1f} GiB free, about {needed / _GIB:.1f} GiB needed"
    if free < needed:
        return [Finding("memory", "warning", text, "Take a smaller model or quantisation, or end other programs.")]
    return [Finding("memory", "ok", text)]


def disk(settings: Settings) -> list[Finding]:
    """The data directory and its logs can be written, and the models fit beside it."""
    for folder in (settings.data_dir, _logs(settings)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder):
                pass
        except OSError as error:
            reason = f"{folder} cannot be written: {error.strerror or error}"
            return [Finding("disk", "wrong", reason, "Mend its rights, or set RAMSEY_DATA_DIR.")]
    place = settings.models_dir if settings.models_dir.is_dir() else settings.data_dir
    free = shutil.disk_usage(place).free
    needed = 2 * _weights_size(settings) + _GIB // 4  # an Ollama writes uploaded weights a second time
    text = f"{free / _GIB:.1f} GiB free at {place}, {needed / _GIB:.1f} GiB needed at most"
    if free < needed:
        return [Finding("disk", "warning", text, "Free some space, or set RAMSEY_ENGINE__MODELS_DIR to a larger disk.")]
    return [Finding("disk", "ok", text)]


def state(settings: Settings) -> list[Finding]:
    """The database answers; a file is whole."""
    if settings.database.url is None and not (settings.data_dir / DATABASE_FILE).exists():
        return []  # nothing has run here yet

    async def look() -> str:
        database = Database(database_url(looked_up(settings)))
        try:
            await database.check()
        finally:
            await database.close()
        return str(database.url.database) if database.is_sqlite else database.shown_url

    try:
        return [Finding("state", "ok", asyncio.run(look()))]
    except RamseyError as error:
        detail = "; ".join(getattr(error, "__notes__", ()))
        where = "database.url: " if settings.database.url is not None else ""
        return [Finding("state", "wrong", f"{where}{error.message}", error.hint or detail)]


def start(settings: Settings) -> list[Finding]:
    """What a gateway refuses to start with."""
    found = asyncio.run(refusals(settings))
    return [Finding(name, "wrong", error.message, error.hint or "") for name, error in found.items()]


def redis(settings: Settings) -> list[Finding]:
    """Each Redis answers. Without it gateways go on, each by itself."""
    try:
        settings = looked_up(settings)
        urls = {
            "limits.redis_url": settings.limits.redis_url,
            "cache.redis_url": settings.cache.redis_url if settings.cache.enabled else None,
            "pool.redis_url": settings.pool.redis_url,
        }
        given = {name: redis_address(url, name) for name, url in urls.items() if url is not None}
        return [asyncio.run(_redis(name, url)) for name, url in given.items()]
    except ConfigurationError:
        return []  # `start` tells it


async def _redis(setting: str, url: str) -> Finding:
    try:
        from redis.asyncio import Redis
        from redis.exceptions import AuthenticationError, RedisError
    except ModuleNotFoundError:
        return Finding("redis", "wrong", f"{setting} needs the package redis", "pip install 'ramsey[redis]'")
    variable = f"RAMSEY_{setting.upper().replace('.', '__')}"
    try:
        async with Redis.from_url(url, socket_timeout=_REDIS_S, socket_connect_timeout=_REDIS_S) as client:
            await client.execute_command("PING")  # type: ignore[no-untyped-call] # redis has no types for it
    except AuthenticationError:
        return Finding("redis", "warning", f"{setting}: Redis refuses the password", f"Correct {variable}.")
    except (RedisError, OSError, ValueError) as error:
        text = f"{setting}: Redis at {shown_url(url.partition('?')[0])} does not answer ({type(error).__name__})"
        return Finding("redis", "warning", text, f"Start it, or correct {variable}; until then each gateway is alone.")
    return Finding("redis", "ok", f"{setting} answers")


def limits(settings: Settings) -> list[Finding]:
    """Models that limits, prices and keys name, and what budgets of money are for."""
    try:
        found = asyncio.run(local_doubts(looked_up(settings), SystemClock()))
    except RamseyError:
        return []  # the state's check says why
    return [Finding("limits", "warning", text, _mend_of_limits(text)) for text in found]


def _mend_of_limits(text: str) -> str:
    if "not served" in text:
        return "Correct the name, or leave it where the model is still to come (ramsey limits list, ramsey keys list)."
    if "no price" in text:
        return "Give it a price, 0 where it shall be free: limits.prices in the settings."
    return "Set limits.redis_url for all of them, or limits.gateways, for each to take its share."


def embedded_engine(settings: Settings) -> list[Finding]:
    """llama.cpp can be loaded: its wheel needs two libraries that slim systems lack."""
    if settings.engine.kind is EngineKind.OLLAMA or settings.pool.nodes:
        return []
    tried = subprocess.run([sys.executable, "-c", "import xllamacpp"], capture_output=True, text=True, check=False)
    if tried.returncode == 0:
        return [Finding("llama.cpp", "ok", "loads")]
    said = (tried.stderr.strip().splitlines() or [f"ended with status {tried.returncode}"])[-1]
    missing = [package for library, package in _LIBRARIES.items() if library in said]
    mend = f"sudo apt-get install {' '.join(missing)}" if missing else "Install again: make clean setup"
    return [Finding("llama.cpp", "wrong", said, mend)]


# --- what runs -------------------------------------------------------------------------------------------


def gateway(settings: Settings) -> list[Finding]:
    """Who has the port, and whether it can answer."""
    server = settings.server
    here = running(settings.data_dir)
    url = here.url if here and here.url else address(server)
    try:
        code, health = Gateway(url, timeout_s=5.0, certificate=server.tls_cert).status("/health")
    except RamseyError as error:
        try:
            bind(server).close()
            return [Finding("gateway", "ok", f"does not run; {server.host}:{server.port} is free")]
        except StartupError as refused:
            if getattr(refused.__cause__, "errno", None) != errno.EADDRINUSE:
                return [Finding("gateway", "wrong", refused.message, refused.hint or "")]
        text = f"another program has {server.host}:{server.port} ({error.message})"
        return [Finding("gateway", "wrong", text, "Stop it, or choose another port: ramsey up --port 8001")]
    if "status" not in health:
        text = f"what answers at {url} is no Ramsey"
        return [Finding("gateway", "wrong", text, "Stop it, or choose another port: ramsey up --port 8001")]
    if code != 200:
        reasons = [part.get("reason", "") for part in health.values() if isinstance(part, dict) and not part.get("ok")]
        return [Finding("gateway", "wrong", f"{url} cannot answer: {' '.join(reasons)}", f"Logs: {_logs(settings)}")]
    return [Finding("gateway", "ok", f"runs at {url} and can answer")]


def engine(settings: Settings) -> list[Finding]:
    """Each node, and whether the model answers there."""
    urls = [node.url for node in settings.pool.nodes] or [settings.engine.host]
    return [finding for url in urls for finding in asyncio.run(_engine(settings, url))]


async def _engine(settings: Settings, url: str) -> list[Finding]:
    found = await probe(url)
    if found.presence is not Presence.ENGINE:
        return [_no_engine(settings, url, found)]
    findings = [_version(found, url), *_exposure_of_engine(url)]
    return [*findings, await _answers(settings, url)]


def _no_engine(settings: Settings, url: str, found: Found) -> Finding:
    if found.presence is not Presence.NOBODY:
        other = "Stop it, or set RAMSEY_ENGINE__HOST to another address."
        return Finding("engine", "wrong", f"what is at {shown_url(url)} is no engine that answers", other)
    if settings.pool.nodes or not settings.engine.launch:
        return Finding(
            "engine", "wrong", f"nobody answers at {shown_url(url)}", "Start Ollama there, or correct the address."
        )
    ollama = shutil.which("ollama", path=environment().get("PATH"))
    if settings.engine.kind is EngineKind.OLLAMA and not ollama:
        mend = "Install it (https://ollama.com/download), or set RAMSEY_ENGINE__KIND=embedded."
        return Finding("engine", "wrong", "engine.kind is ollama, and there is no `ollama` on the PATH", mend)
    which = ollama if ollama and settings.engine.kind is not EngineKind.EMBEDDED else "the embedded engine"
    return Finding("engine", "ok", f"nobody at {shown_url(url)}; `ramsey up` starts {which}")


def _version(found: Found, url: str) -> Finding:
    text = f"{found.kind.value} {found.version} at {shown_url(url)}"
    if found.kind is EngineKind.OLLAMA and version_of(found.version) < OLDEST_OLLAMA:
        oldest = ".".join(map(str, OLDEST_OLLAMA))
        return Finding("engine", "wrong", f"{text} has known holes", f"Update Ollama: {oldest} or newer is needed.")
    return Finding("engine", "ok", text)


def version_of(text: str) -> tuple[int, ...]:
    """The numbers of a version; one that was built by hand (0.0.0) counts as new."""
    numbers = tuple(int(number) for number in re.findall(r"\d+", text)[:3])
    return numbers if any(numbers) else (999,)


async def _answers(settings: Settings, url: str) -> Finding:
    model = settings.model.name
    timeouts = Timeouts(first_token=_ANSWER_S, total=_ANSWER_S)
    async with OllamaClient(url, timeouts=timeouts) as client:
        try:
            held = sorted(str(row["name"]) for row in await client.tags() if str(row["name"]).startswith(f"{model}:"))
            if not held:
                return Finding("answer", "ok", f"the engine holds no {model} yet; `ramsey up` deploys it")
            name = f"{model}:{settings.model.release}" if settings.model.release else held[-1]
            await client.generate("1", model=name, options={"num_predict": 1})
        except RamseyError as error:
            return Finding("answer", "wrong", error.message, f"Logs: {_logs(settings)}")
    return Finding("answer", "ok", f"{name} answers")


def model(settings: Settings) -> list[Finding]:
    """The Modelfile and its weights."""
    if settings.model.modelfile is None:
        return [Finding("model", "ok", "no Modelfile: what the nodes hold is served")]
    try:
        check_model(settings)
    except ConfigurationError:
        return []  # `start` tells it
    return [Finding("model", "ok", f"{settings.model.modelfile}, {_weights_size(settings) / 1e6:,.1f} MB")]


# --- who can reach it ------------------------------------------------------------------------------------


def exposure(settings: Settings) -> list[Finding]:
    """The gateway beyond this machine, and whether it asks for keys there."""
    if is_loopback(settings.server.host):
        return [Finding("exposure", "ok", "the gateway listens on this machine alone")]
    if not settings.access.keys:
        text = (
            f"the gateway listens on {settings.server.host}: without a stored key, callers from elsewhere are refused"
        )
        return [Finding("exposure", "warning", text, "Make one: ramsey keys create --name NAME")]
    text = f"the gateway listens on {settings.server.host}; callers need one of {len(settings.access.keys)} keys"
    return [Finding("exposure", "ok", text)]


def _exposure_of_engine(url: str) -> list[Finding]:
    """An engine has no authentication: whoever reaches its port can delete its models."""
    parts = urlsplit(url)
    if not is_loopback(parts.hostname or ""):
        return []
    own = _own_address()
    if own and not is_loopback(own) and _connects(own, parts.port or 80):
        text = f"the engine answers at {own}:{parts.port}, beyond this machine, without authentication"
        return [Finding("exposure", "warning", text, "Start it with OLLAMA_HOST=127.0.0.1, or close the port.")]
    return []


WITH_SETTINGS: tuple[Callable[[Settings], list[Finding]], ...] = (
    start,
    disk,
    state,
    redis,
    limits,
    memory,
    embedded_engine,
    model,
    engine,
    gateway,
    exposure,
)


# --- small things ----------------------------------------------------------------------------------------


def _weights_size(settings: Settings) -> int:
    try:
        path = load_modelfile(settings.model.modelfile).from_path if settings.model.modelfile else None
        return path.stat().st_size if path else 0
    except (RamseyError, OSError):
        return 0


def _logs(settings: Settings) -> Path:
    return settings.data_dir / "logs"


def _own_address() -> str | None:
    """This machine's address towards others. Nothing is sent: a UDP socket only looks up its route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return None


def _connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 1.0).close()
    except OSError:
        return False
    return True

"""How a child is started: its command, and the environment that makes it behave."""

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from deployment.errors import StartupError
from deployment.settings import EngineKind, Settings

_DRAIN_S = 5.0  # by then the gateway has drained; this is for whoever speaks to the engine itself
_PROMPT_CACHE_MIB = "512"  # llama.cpp's own default is 8 GiB for each model, outside Ollama's estimate of memory
# They would put prompts on disk, or lock Ollama out of its own runner.
_HARMFUL = {"OLLAMA_DEBUG_LOG_REQUESTS", "LLAMA_API_KEY"}


@dataclass(frozen=True, slots=True)
class Plan:
    """How a child is started."""

    kind: EngineKind
    command: tuple[str, ...]
    environment: Mapping[str, str]


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
    package = str(Path(__file__).parents[3])
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(filter(None, (package, base.get("PYTHONPATH")))),
        "PYTHONUNBUFFERED": "1",
    }


def _bind_address(url: str) -> str:
    parts = urlsplit(url)
    host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname
    return f"[{host}]:{parts.port or 80}" if ":" in (host or "") else f"{host}:{parts.port or 80}"

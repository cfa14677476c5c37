"""The engines: whether each answers, is new enough, and hidden from others."""

import asyncio
import re
import shutil
import socket
from urllib.parse import urlsplit

from deployment.cli.checks.finding import Finding, logs
from deployment.engines import Found, Presence, is_loopback, probe
from deployment.errors import RamseyError
from deployment.ollama_client import OllamaClient, Timeouts
from deployment.settings import EngineKind, Settings, environment, shown_url

OLDEST_OLLAMA = (0, 20, 3)  # before it, a model file or name can do harm (CVE-2026-7482, CVE-2026-7020, …)
_ANSWER_S = 120.0


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
            return Finding("answer", "wrong", error.message, f"Logs: {logs(settings)}")
    return Finding("answer", "ok", f"{name} answers")


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

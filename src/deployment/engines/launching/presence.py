"""Who is at an address: an engine, nobody, or something else."""

import asyncio
import ipaddress
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from deployment.errors import EngineError, EngineTimeout
from deployment.ollama_client import OllamaClient, Timeouts
from deployment.settings import EngineKind, Settings

_EMBEDDED_MARK = "ramsey"  # what the embedded engine adds to its /api/version
_PROBE = Timeouts(connect=1.0, first_token=2.0, token=2.0, total=2.0)
_POLL_S = 0.05


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


async def wait_while_silent(url: str, settings: Settings) -> Found:
    """Probe; an Ollama that starts opens its socket long before it answers, so give it its time."""
    loop = asyncio.get_running_loop()
    end = loop.time() + settings.engine.start_timeout
    while True:
        found = await probe(url)
        if found.presence is not Presence.SILENT or loop.time() > end:
            return found
        await asyncio.sleep(_POLL_S)


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

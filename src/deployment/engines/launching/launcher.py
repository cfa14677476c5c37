"""Which engine answers: one that is there, an `ollama` started as a child, or the embedded engine as a child."""

import asyncio
import fcntl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from deployment.engines.launching.child import Child, open_log
from deployment.engines.launching.presence import Found, Presence, is_launchable, probe, wait_while_silent
from deployment.engines.launching.recipe import plan
from deployment.errors import StartupError
from deployment.settings import EngineKind, Settings, environment, shown_url

_POLL_S = 0.05


class RunningEngine:
    """An engine that answers at `url`. `stop()` ends it where we started it."""

    def __init__(self, url: str, found: Found, child: "Child | None" = None) -> None:
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
    found = await wait_while_silent(url, settings)
    if found.presence is Presence.NOBODY and settings.engine.launch and is_launchable(url):
        async with _only_one(settings):
            found = await wait_while_silent(url, settings)  # another gateway of this machine may have been first
            if found.presence is Presence.NOBODY:
                return await _start(settings, url)
    return RunningEngine(url, _accepted(found, url, settings))


def _check_address(url: str) -> None:
    try:
        port = urlsplit(url).port
    except ValueError:
        port = 0
    if port == 0:
        raise StartupError(
            f"The engine's address {shown_url(url)} has no usable port.",
            hint="Set RAMSEY_ENGINE__HOST=http://127.0.0.1:11434.",
        )


def _accepted(found: Found, url: str, settings: Settings) -> Found:
    """An engine that is there and that the settings want, or the reason why not."""
    elsewhere = f"Stop it, or put the engine elsewhere: RAMSEY_ENGINE__HOST=http://127.0.0.1:{_other_port(url)}."
    match found.presence:
        case Presence.STRANGER:
            raise StartupError(f"Something that is not Ollama answers at {shown_url(url)}.", hint=elsewhere)
        case Presence.SILENT:
            raise StartupError(
                f"Something at {shown_url(url)} takes connections and has not answered for "
                f"{settings.engine.start_timeout:g} s.",
                hint=elsewhere,
            )
        case Presence.NOBODY:
            raise StartupError(f"No engine answers at {shown_url(url)}.", hint=_why_not_started(url))
    if settings.engine.kind is EngineKind.EMBEDDED and found.kind is EngineKind.OLLAMA:
        raise StartupError(
            f"An Ollama answers at {shown_url(url)}, and engine.kind is embedded.",
            hint=f"{elsewhere} Or use it: RAMSEY_ENGINE__KIND=auto.",
        )
    if settings.engine.kind is EngineKind.OLLAMA and found.kind is EngineKind.EMBEDDED:
        raise StartupError(
            f"The embedded engine answers at {shown_url(url)}, and engine.kind is ollama.", hint=elsewhere
        )
    return found


def _why_not_started(url: str) -> str:
    if is_launchable(url):
        return "Start one there, or let Ramsey do it: RAMSEY_ENGINE__LAUNCH=true."
    return "Start Ollama there, or correct RAMSEY_ENGINE__HOST. Ramsey starts an engine on http://127.0.0.1 only."


def _other_port(url: str) -> int:
    port = urlsplit(url).port or 11434
    return port + 1 if port < 65535 else 11434


@asynccontextmanager
async def _only_one(settings: Settings) -> AsyncIterator[None]:
    """One launcher at a time on one data_dir: gateways that start together must not start two engines."""
    loop = asyncio.get_running_loop()
    end = loop.time() + settings.engine.start_timeout
    with open_log(settings.data_dir / "engine.lock") as lock:
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
    child = Child(settings, url, plan(settings, url, environment()))
    try:
        found = await child.start()
    except StartupError:
        found = await probe(url)  # somebody else may have taken the port meanwhile
        if found.presence is not Presence.ENGINE:
            raise
        return RunningEngine(url, _accepted(found, url, settings))
    return RunningEngine(url, found, child)

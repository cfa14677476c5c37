"""The gateway as a child process of `ramsey up`, and the signals that end both."""

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from deployment.cli.gateway import Gateway, address
from deployment.engines import open_log, tethered
from deployment.errors import RamseyError, StartupError
from deployment.settings import Settings

_POLL_S = 0.05
_READY_S = 120.0
_AFTER_DRAIN_S = 10.0
_LAST_LINES = 5
_NOW_S = 5.0


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
        if not self.once.is_set():
            self.once.set()
            return
        self.twice.set()
        # A thread that waits for a dead disk would keep us for ever; our children end when we do.
        asyncio.get_running_loop().call_later(_NOW_S, os._exit, 130)


class GatewayProcess:
    """`python src/deployment/api.py` as a child, at `url`."""

    def __init__(self, process: Process, url: str, log: Path | None, certificate: Path | None) -> None:
        self.process = process
        self.url = url
        self._log = log
        self._certificate = certificate
        self._begin = 0

    async def until_ready(self) -> None:
        """Wait until it takes work. Raises StartupError with its last words when it ends instead."""
        gateway = Gateway(self.url, timeout_s=5.0, certificate=self._certificate)
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
async def gateway_process(
    settings: Settings, variables: Mapping[str, str], interrupts: Interrupts, *, logs: bool
) -> AsyncIterator[GatewayProcess]:
    """Start it with these `variables`; at the end let its streams finish, and stop it."""
    spec = find_spec("deployment.api")
    if spec is None or spec.origin is None:
        raise StartupError("The gateway's program is missing.", hint="Install Ramsey again.")
    log = None if logs else settings.data_dir / "logs" / "gateway.log"
    with contextlib.ExitStack() as files:
        output = None
        if log:
            output = files.enter_context(open_log(log, anew=True))
        process = await asyncio.create_subprocess_exec(
            *tethered((sys.executable, spec.origin), variables),
            env=variables,
            stdin=DEVNULL,
            stdout=output,
            stderr=STDOUT if output else None,
            start_new_session=True,  # Ctrl-C comes to us alone, and we end it in order
        )
    url = address(settings.server)
    try:
        yield GatewayProcess(process, url, log, settings.server.tls_cert)
    finally:
        await _stop(process, settings, interrupts)


async def _stop(process: Process, settings: Settings, interrupts: Interrupts) -> None:
    if process.returncode is None:
        process.terminate()
        limit = settings.server.drain_seconds + settings.server.drain_notice_seconds + _AFTER_DRAIN_S
        ended = asyncio.create_task(process.wait())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(first_of(ended, interrupts.twice.wait()), limit)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


async def first_of(task: "asyncio.Task[Any]", other: Any) -> bool:
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


def ending_of(status: int) -> str:
    """How a process ended, in words."""
    return signal.Signals(-status).name if status < 0 else f"status {status}"

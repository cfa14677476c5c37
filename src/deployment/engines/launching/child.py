"""An engine process of ours. It dies with its parent even at `kill -9`, and is started again when it crashes."""

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from functools import partial
from pathlib import Path
from typing import BinaryIO

import structlog

from deployment.engines.launching.presence import Found, Presence, probe
from deployment.engines.launching.recipe import Plan
from deployment.errors import RamseyError, StartupError
from deployment.settings import EngineKind, Settings, shown_url

_POLL_S = 0.05
_STOP_S = 10.0
_FIRST_BACKOFF_S, _LAST_BACKOFF_S = 0.5, 30.0
_STEADY_S = 60.0  # a child that lived so long starts again without having to wait long
_LOG_BYTES = 10 * 1024 * 1024
_LAST_LINES = 5
_log = structlog.get_logger("engine")


class Child:
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
        with open_log(self.log_path) as log:
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
            f"The engine doesn't answer at {shown_url(self._url)} after {limit:g} s. {self._last_lines(begin)}",
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


def open_log(path: Path, *, anew: bool = False) -> BinaryIO:
    """A log that nobody else may read, to append to or to write anew, and its folder made.

    Raises StartupError where it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = open(path, "wb" if anew else "ab", opener=partial(os.open, mode=0o600))  # noqa: SIM115 - the caller's
        if path.is_file():  # an older one may be open to all; what is no file, /dev/null, stays as it is
            os.fchmod(log.fileno(), 0o600)
        return log
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

"""Gates of one's own: a webhook, and an executable. Settings on the server say which hosts and programs may be."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson

from deployment.errors import ConfigurationError
from deployment.releases.catalogue.gates.model import GateContext, GateResult

_ANSWER_BYTES, _TOLD_CHARS = 16 * 1024, 500
_PATH = "/usr/local/bin:/usr/bin:/bin"


class WebhookGate:
    """Somebody else's yes: any status of 200 to 299. Redirects are not followed."""

    name = "webhook"

    def __init__(self, url: str, hosts: Collection[str], timeout_s: float = 30.0) -> None:
        """`hosts` are those that may be called. Raises ConfigurationError for another, or for what is no URL."""
        self._url, self._timeout_s = url, timeout_s
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            host, parts = None, urlsplit("")
        if parts.scheme not in {"http", "https"} or not host or parts.username or parts.password:
            raise ConfigurationError("A webhook's URL is http:// or https://, with a host and without a password.")
        if host not in {each.lower() for each in hosts}:
            raise ConfigurationError(
                f"The webhook's host {host} may not be called.",
                hint=f'Allow it in the settings of the gateways: releases.webhook_hosts = ["{host}"].',
            )
        self._host = host

    async def check(self, context: GateContext) -> GateResult:
        """POST what is judged, as JSON."""
        limit = aiohttp.ClientTimeout(total=self._timeout_s)
        try:
            async with (
                aiohttp.ClientSession(timeout=limit, trust_env=False, cookie_jar=aiohttp.DummyCookieJar()) as session,
                session.post(
                    self._url,
                    data=orjson.dumps(subject(context)),
                    headers={"Content-Type": "application/json"},
                    allow_redirects=False,
                ) as response,
            ):
                said = _plain(await response.content.read(_ANSWER_BYTES))
                passed = 200 <= response.status < 300
                return GateResult(self.name, passed, f"{self._host} answered {response.status}{said}.")
        except TimeoutError:
            return GateResult(self.name, False, f"{self._host} did not answer within {self._timeout_s:g} s.")
        except (aiohttp.ClientError, OSError) as error:
            return GateResult(self.name, False, f"{self._host} cannot be asked: {type(error).__name__}.")


class ExecutableGate:
    """A program's yes: exit status 0. It gets what is judged as JSON on its input, and a clean environment."""

    name = "executable"

    def __init__(self, command: Sequence[str], folder: Path | None, timeout_s: float = 300.0) -> None:
        """`command`: the name of a file in `folder`, and arguments. Raises ConfigurationError for any other."""
        if folder is None:
            raise ConfigurationError(
                "No executable may be a gate here.", hint="Name the folder of those that may: releases.gates_folder."
            )
        if not command:
            raise ConfigurationError("The executable gate has no command.")
        self._folder, self._timeout_s = folder.resolve(), timeout_s
        program = (self._folder / command[0]).resolve()
        if not (program.parent == self._folder and program.is_file() and os.access(program, os.X_OK)):
            raise ConfigurationError(
                f"{command[0]!r} is no executable file in {folder}.", hint="Put it there; its name alone is its path."
            )
        self._command = (str(program), *command[1:])

    async def check(self, context: GateContext) -> GateResult:
        """Run it, and whatever it starts, for as long as it may take."""
        name = Path(self._command[0]).name
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=self._folder,
            env={"PATH": _PATH, "LANG": "C.UTF-8", **_variables(context)},
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(self._timeout_s):
                said = await _converse(process, orjson.dumps(subject(context)))
                status = await process.wait()
        except TimeoutError:
            return GateResult(self.name, False, f"{name} did not end within {self._timeout_s:g} s, and was killed.")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        return GateResult(self.name, status == 0, f"{name} ended with status {status}{said}.")


def subject(context: GateContext) -> dict[str, Any]:
    """What is judged, for others."""
    entry = context.entry
    return {
        "release": entry.name,
        "model": entry.model,
        "version": entry.tag,
        "current": context.current,
        "digest": entry.digest,
        "weights_sha256": entry.weights_sha256,
        "created_at": entry.created_at.isoformat(),
        "created_by": entry.created_by,
        "notes": entry.notes,
        "nodes": [node.name for node in context.nodes],
    }


def _variables(context: GateContext) -> dict[str, str]:
    return {
        "RAMSEY_RELEASE": context.entry.name,
        "RAMSEY_MODEL": context.entry.model,
        "RAMSEY_CURRENT_RELEASE": context.current or "",
    }


async def _converse(process: asyncio.subprocess.Process, content: bytes) -> str:
    """Give it its input, and read what it says to the end; the last of it."""
    if process.stdin is None or process.stdout is None:
        return ""
    with contextlib.suppress(OSError):  # it need not read
        process.stdin.write(content)
        await process.stdin.drain()
        process.stdin.close()
    tail = b""
    while chunk := await process.stdout.read(65536):
        tail = (tail + chunk)[-_ANSWER_BYTES:]
    return _plain(tail)


def _plain(content: bytes) -> str:
    """The end of what was said, as one line without control characters."""
    text = " ".join(content.decode("utf-8", "replace").split())
    text = "".join(char for char in text if char.isprintable())[-_TOLD_CHARS:]
    return f": {text.rstrip('.')}" if text else ""

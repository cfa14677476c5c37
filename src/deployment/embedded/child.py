"""One runner process: started, asked over HTTP, stopped; and what its death looks like to a request."""

import asyncio
import logging
import secrets
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from deployment.embedded.cores import default_threads, usable_cores
from deployment.embedded.options import LoadOptions
from deployment.errors import EngineCrashed, EngineError, EngineTimeout

log = logging.getLogger(__name__)

CRASHED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)
_RUNNER = Path(__file__).with_name("runner.py")
_CACHE_RAM_MIB = 64
_STOP_S = 5.0


class LoadFailed(EngineError):
    """The runner could not load the model."""

    code = "load_failed"
    status = 500


class NotReached(EngineCrashed):
    """The runner was dead before it heard of the request: another one may serve it."""


class Refused(EngineError):
    """llama.cpp answered with an error. `body` is its JSON, as Ollama hands it on."""

    retryable = False

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(body.decode("utf-8", errors="replace"))
        self.status = status
        try:
            error = orjson.loads(body)["error"]
            self.details: dict[str, Any] = error if isinstance(error, dict) else {"message": str(error)}
        except (ValueError, KeyError, TypeError):
            self.details = {}


class Child:
    """A started process. `start` makes one; `wait` ends when it is dead."""

    def __init__(self, process: asyncio.subprocess.Process, api_key: str) -> None:
        self._process = process
        self._headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
        self._errors: deque[str] = deque(maxlen=60)
        self._reader = asyncio.create_task(self._read_errors())
        self._url = ""

    @classmethod
    async def start(cls, blob: Path, options: LoadOptions, slots: int, timeout_s: float) -> "Child":
        """Start a runner and wait until it serves. Raises LoadFailed with llama.cpp's own reason."""
        api_key = secrets.token_urlsafe(24)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # its folder stays off sys.path
            str(_RUNNER),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
            start_new_session=True,  # Ctrl-C is for the parent, which drains first
        )
        child = cls(process, api_key)
        order = {
            **asdict(options),
            # A caller may ask for 100,000; more than there are cores only burn their time.
            "threads": min(options.threads, usable_cores()) if options.threads > 0 else default_threads(),
            "path": str(blob),
            "slots": slots,
            "api_key": api_key,
            "cache_ram_mib": _CACHE_RAM_MIB,
        }
        try:
            await child._load(order, timeout_s)
        except BaseException:
            await child.stop()
            raise
        return child

    async def _load(self, order: dict[str, Any], timeout_s: float) -> None:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise LoadFailed("llama-server process has terminated: it has no pipes")
        try:
            stdin.write(orjson.dumps(order) + b"\n")
            await stdin.drain()
            line = await asyncio.wait_for(stdout.readline(), timeout_s)
        except TimeoutError:
            raise EngineTimeout(f"timed out waiting for llama-server to start: {timeout_s:g} s have passed") from None
        except OSError:
            line = b""  # it died before it read its order
        if not line:
            await self.wait()
            raise LoadFailed(f"llama-server process has terminated: {self._reason()}")
        self._url = orjson.loads(line)["url"]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs, as far as we have heard."""
        return self._process.returncode is None

    async def wait(self) -> int:
        """Its exit status, once it has ended and its last words are read."""
        status = await self._process.wait()
        with suppress(asyncio.CancelledError):
            await self._reader
        return status

    async def stop(self) -> None:
        """End it: ask by closing its standard input, then insist."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), _STOP_S)
        except TimeoutError:
            self.kill()
            await self._process.wait()
        self._reader.cancel()

    def kill(self) -> None:
        """End it at once."""
        with suppress(ProcessLookupError):
            self._process.kill()

    @asynccontextmanager
    async def post(
        self, client: aiohttp.ClientSession, path: str, body: dict[str, Any]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask it. Leaving the context closes the connection, which frees the slot at once.

        Raises NotReached, EngineCrashed or Refused.
        """
        try:
            async with client.post(self._url + path, data=orjson.dumps(body), headers=self._headers) as response:
                if response.status != 200:
                    raise Refused(response.status, await response.read())
                yield response
        except aiohttp.ClientConnectorError as error:
            raise NotReached(CRASHED) from error
        except (aiohttp.ClientError, OSError) as error:
            raise EngineCrashed(CRASHED) from error

    async def ask(self, client: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> Any:
        """One JSON answer."""
        async with self.post(client, path, body) as response:
            return orjson.loads(await response.read())

    async def turns(self, client: aiohttp.ClientSession, timeout_s: float) -> bool:
        """Whether the thread that serves all slots answers in that time; between two batches it does."""
        try:
            timeout = aiohttp.ClientTimeout(total=timeout_s)
            async with client.get(f"{self._url}/slots", headers=self._headers, timeout=timeout) as response:
                await response.read()
        except TimeoutError:
            return False
        except (aiohttp.ClientError, OSError):
            pass  # it dies: `wait` hears of that
        return True

    async def _read_errors(self) -> None:
        stream = self._process.stderr
        while stream is not None:
            try:
                line = await stream.readline()
            except ValueError:  # a line beyond the limit
                continue
            if not line:
                return
            text = line.decode("utf-8", errors="replace").rstrip()
            self._errors.append(text)
            log.debug("runner %d: %s", self._process.pid, text)

    def _reason(self) -> str:
        """What llama.cpp said was wrong: its lines of level E, without time stamps."""
        said = [line.split(" E ", 1)[1].strip() for line in self._errors if " E " in line]
        status = self._process.returncode
        return "; ".join(said[:3]) or (self._errors[-1] if self._errors else f"exit status {status}")


def new_client() -> aiohttp.ClientSession:
    """The HTTP client for children. Never reuses a connection: llama.cpp closes it after a stream unannounced."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True, limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
        trust_env=False,
    )

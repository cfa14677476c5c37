"""What happens behind a gateway that has just started: an engine, the release on it, then traffic."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self

import structlog

from deployment.engines import EnginePool, RunningEngine, launch
from deployment.errors import ConfigurationError, RamseyError
from deployment.ollama_client import OllamaClient
from deployment.releases.deploy import deploy
from deployment.releases.traffic import Traffic
from deployment.settings import ModelSettings, Settings

_FIRST_RETRY_S, _LAST_RETRY_S = 1.0, 30.0

_log = structlog.get_logger("bring-up")


class BringUp:
    """Runs beside the gateway, so that the gateway is there at once and says what it still waits for.

    `problem` is what it waits for, in words for people; None once the release has traffic.
    """

    def __init__(self, settings: Settings, pool: EnginePool, traffic: Traffic) -> None:
        self._settings, self._pool, self._traffic = settings, pool, traffic
        self.problem: str | None = "The engine is starting."
        self._engine: RunningEngine | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin."""
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Stop the engine, where we started it."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._engine:
            await self._engine.stop()

    async def _run(self) -> None:
        wait = _FIRST_RETRY_S
        while True:
            try:
                await self._once()
            except RamseyError as error:
                self.problem = f"{error.message} {error.hint or ''}".strip()
                _log.warning("not serving yet", reason=self.problem, retry_s=wait)
                await asyncio.sleep(wait)
                wait = min(wait * 2, _LAST_RETRY_S)
            else:
                self.problem = None
                return

    async def _once(self) -> None:
        settings = self._settings
        if self._engine is None and not settings.pool.nodes:
            self._engine = await launch(settings)
        if settings.model.modelfile is None:
            self._point(_release_in(settings.model))
            return
        names = set()
        for node in self._pool.view():
            async with OllamaClient(node.url, settings.model.name) as client:
                names.add((await deploy(client, settings)).name)
        for name in names:
            self._point(name)

    def _point(self, release: str) -> None:
        self._traffic.point(self._settings.model.name, release)
        _log.info("serving", release=release)


def _release_in(model: ModelSettings) -> str:
    if model.release is None:
        raise ConfigurationError(
            "There is no Modelfile to deploy and no release to serve.", hint="Set model.modelfile or model.release."
        )
    return f"{model.name}:{model.release}"

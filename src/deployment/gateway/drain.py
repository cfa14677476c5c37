"""How the process stops: readiness says 503, streams in flight end well, then the server goes, with status 0."""

import asyncio
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

import structlog
import uvicorn

from deployment.gateway.service import Gateway
from deployment.settings import ServerSettings

_AFTER_CUT_S = 2.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_log = structlog.get_logger("drain")


class Drainer:
    """Takes SIGTERM and Ctrl-C before the server does, whoever started it; a second signal stops at once."""

    def __init__(self, gateway: Gateway, settings: ServerSettings) -> None:
        self._gateway, self._settings = gateway, settings
        self._previous: dict[int, Any] = {}
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> Self:
        """Install the handlers; outside the main thread (tests) there are none to install."""
        if threading.current_thread() is threading.main_thread():
            self._loop = asyncio.get_running_loop()
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Put the handlers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._gateway.drain.noticed or self._loop is None:
            self._pass_on(number, frame)
            return
        self._gateway.drain.noticed = True
        self._loop.call_soon_threadsafe(self._begin, number)

    def _begin(self, number: int) -> None:
        self._task = asyncio.create_task(self._drain(number))

    async def _drain(self, number: int) -> None:
        gateway, settings = self._gateway, self._settings
        _log.info("draining", signal=signal.Signals(number).name, in_flight=len(gateway.exchanges))
        await asyncio.sleep(settings.drain_notice_seconds)
        gateway.drain.refusing = True
        if not await gateway.exchanges.wait_idle(settings.drain_seconds):
            _log.warning("cutting streams", in_flight=len(gateway.exchanges), after_s=settings.drain_seconds)
            gateway.exchanges.cut_all()
            await gateway.exchanges.wait_idle(_AFTER_CUT_S)
        self._stop(number)

    def _stop(self, number: int) -> None:
        server = getattr(self._previous[number], "__self__", None)
        if isinstance(server, uvicorn.Server):
            # Not its handle_exit: that raises the signal again at the end, and the exit status would not be 0.
            server.should_exit = True
        else:
            self._pass_on(number, None)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        handler = self._previous.get(number)
        if callable(handler):
            handler(number, frame)

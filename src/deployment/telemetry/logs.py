"""JSON lines on standard output: one shape for our own events and for those of libraries."""

import logging
import sys
from collections.abc import Callable
from typing import Any

import orjson
import structlog

from deployment.clock import SystemClock
from deployment.settings import LogSettings

_LINE = orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE

_SHARED: list[Callable[..., Any]] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
]


def configure_logging(settings: LogSettings, *, readable: bool = False) -> None:
    """Set the process's logging up, once. `readable` gives coloured lines for a person at a terminal."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    renderer: Any = (
        structlog.dev.ConsoleRenderer() if readable else structlog.processors.JSONRenderer(serializer=_dumps)
    )
    structlog.configure(
        processors=[*_SHARED, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Lines,
        cache_logger_on_first_use=False,  # set up again (tests, reload), a cached logger would keep the old level
    )
    handler = _StdoutHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    # Our own request log says more than uvicorn's, and aiohttp's says each connection.
    for name in ("uvicorn.access", "aiohttp.access"):
        logging.getLogger(name).disabled = True
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


def info_line(
    logger: str, event: str, soon: Callable[[Callable[[], None]], object]
) -> Callable[[dict[str, Any]], None]:
    """Writes lines of this event with these fields, as logging is set up now: what `structlog.get_logger(logger)`
    would write, at a fraction of its cost. For the one line that every request has.

    `soon` calls back once what goes on now is done (a loop's `call_soon`): lines of one moment go out together.
    """
    log = structlog.get_logger(logger).bind()
    if not log.is_enabled_for(logging.INFO):
        return lambda fields: None
    if not isinstance(structlog.get_config()["processors"][-1], structlog.processors.JSONRenderer):
        return lambda fields: log.info(event, **fields)
    return _InfoLines(event, soon)


class _InfoLines:
    def __init__(self, event: str, soon: Callable[[Callable[[], None]], object]) -> None:
        self._event, self._soon, self._now = event, soon, SystemClock().now
        self._held: list[bytes] = []

    def __call__(self, fields: dict[str, Any]) -> None:
        line = {**fields, "event": self._event, "level": "info", "time": self._now()}
        self._held.append(orjson.dumps(line, default=str, option=_LINE))
        if len(self._held) == 1:
            self._soon(self._write)

    def _write(self) -> None:
        lines, self._held = b"".join(self._held), []
        sys.stdout.write(lines.decode())
        sys.stdout.flush()


class _Lines:
    """Writes to what standard output is now, which may be another than when logging was set up."""

    def __init__(self, *_: Any) -> None:
        pass

    def msg(self, message: str) -> None:
        """One line, at once."""
        sys.stdout.write(message + "\n")
        sys.stdout.flush()

    debug = info = warning = error = critical = exception = log = msg


class _StdoutHandler(logging.Handler):
    """The same for the standard library's loggers."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line, at once."""
        try:
            _Lines().msg(self.format(record))
        except Exception:
            self.handleError(record)


def _dumps(event: Any, **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()

"""What `ramsey doctor` looks at. Each check gives what it found, and never fails itself."""

from collections.abc import Callable

from deployment.cli.checks.engines import engine, version_of
from deployment.cli.checks.finding import Finding
from deployment.cli.checks.gateway import exposure, gateway, limits, model, start
from deployment.cli.checks.machine import clock, disk, embedded_engine, memory, python
from deployment.cli.checks.stores import redis, state
from deployment.settings import Settings

__all__ = [
    "WITH_SETTINGS",
    "Finding",
    "clock",
    "embedded_engine",
    "engine",
    "exposure",
    "gateway",
    "limits",
    "python",
    "state",
    "version_of",
]

WITH_SETTINGS: tuple[Callable[[Settings], list[Finding]], ...] = (
    start,
    disk,
    state,
    redis,
    limits,
    memory,
    embedded_engine,
    model,
    engine,
    gateway,
    exposure,
)

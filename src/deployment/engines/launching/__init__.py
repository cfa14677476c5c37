"""Finds the engine that answers, or starts one and keeps it running."""

from deployment.engines.launching.child import open_log
from deployment.engines.launching.launcher import RunningEngine, launch, running
from deployment.engines.launching.presence import Found, Presence, is_loopback, probe
from deployment.engines.launching.recipe import tethered

__all__ = ["Found", "Presence", "RunningEngine", "is_loopback", "launch", "open_log", "probe", "running", "tethered"]

"""Releases of a model: what is served, how it comes onto the nodes, and which of them answers."""

from deployment.releases.bringup import BringUp
from deployment.releases.deploy import check_model, deploy
from deployment.releases.model import Release
from deployment.releases.traffic import (
    PIN_HEADER,
    Caller,
    Choice,
    MainAnswer,
    RecentAnswers,
    Recorder,
    Shadows,
    Split,
    Traffic,
    TrafficRoom,
    Watch,
    is_failure,
)

__all__ = [
    "PIN_HEADER",
    "BringUp",
    "Caller",
    "Choice",
    "MainAnswer",
    "RecentAnswers",
    "Recorder",
    "Release",
    "Shadows",
    "Split",
    "Traffic",
    "TrafficRoom",
    "Watch",
    "check_model",
    "deploy",
    "is_failure",
]

"""Releases of a model: what is served, how it comes onto the nodes, and which of them answers."""

from deployment.releases.bringup import BringUp
from deployment.releases.deploy import check_model, deploy
from deployment.releases.model import Release
from deployment.releases.traffic import PIN_HEADER, Caller, Choice, Split, Traffic, TrafficRoom

__all__ = [
    "PIN_HEADER",
    "BringUp",
    "Caller",
    "Choice",
    "Release",
    "Split",
    "Traffic",
    "TrafficRoom",
    "check_model",
    "deploy",
]

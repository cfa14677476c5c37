"""Releases of a model: what is served, and how it comes onto the nodes."""

from deployment.releases.bringup import BringUp
from deployment.releases.deploy import check_model, deploy
from deployment.releases.model import Release
from deployment.releases.traffic import Traffic

__all__ = ["BringUp", "Release", "Traffic", "check_model", "deploy"]

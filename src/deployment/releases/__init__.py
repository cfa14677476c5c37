"""Releases of a model: what is served, and how it comes onto the nodes."""

from deployment.releases.deploy import deploy
from deployment.releases.model import Release

__all__ = ["Release", "deploy"]

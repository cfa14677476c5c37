"""Releases of a model: what is served, how it comes onto the nodes, and which of them answers."""

from deployment.releases.bringup import BringUp
from deployment.releases.catalogue import (
    BLOBS,
    Catalogue,
    CatalogueEntry,
    CatalogueRoom,
    Wish,
    catalogue_of,
    release_name,
)
from deployment.releases.deploy import check_model, deploy
from deployment.releases.local import LocalReleases, local_doubts, local_releases
from deployment.releases.model import Release
from deployment.releases.traffic import (
    PIN_HEADER,
    Caller,
    Choice,
    FeedbackStore,
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
from deployment.releases.traits import Traits

__all__ = [
    "BLOBS",
    "PIN_HEADER",
    "BringUp",
    "Caller",
    "Catalogue",
    "CatalogueEntry",
    "CatalogueRoom",
    "Choice",
    "FeedbackStore",
    "LocalReleases",
    "MainAnswer",
    "RecentAnswers",
    "Recorder",
    "Release",
    "Shadows",
    "Split",
    "Traffic",
    "TrafficRoom",
    "Traits",
    "Watch",
    "Wish",
    "catalogue_of",
    "check_model",
    "deploy",
    "is_failure",
    "local_doubts",
    "local_releases",
    "release_name",
]

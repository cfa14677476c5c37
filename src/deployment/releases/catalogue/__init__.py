"""Releases as they are kept: made once, never changed, the same bytes on every node."""

from deployment.releases.catalogue.artefacts import Artefacts, CannotKeep
from deployment.releases.catalogue.distribution import Distribution, Doing, NodeReport, Pruned, missing
from deployment.releases.catalogue.evaluation import Evaluation, Question, evaluate, questions_file, read_questions
from deployment.releases.catalogue.model import CatalogueEntry, release_name
from deployment.releases.catalogue.room import CatalogueRoom, GateWish, catalogue_of
from deployment.releases.catalogue.routes import BLOBS
from deployment.releases.catalogue.service import SETTINGS_ACTOR, Catalogue, Wish
from deployment.releases.catalogue.store import CatalogueStore

__all__ = [
    "BLOBS",
    "SETTINGS_ACTOR",
    "Artefacts",
    "CannotKeep",
    "Catalogue",
    "CatalogueEntry",
    "CatalogueRoom",
    "CatalogueStore",
    "Distribution",
    "Doing",
    "Evaluation",
    "GateWish",
    "NodeReport",
    "Pruned",
    "Question",
    "Wish",
    "catalogue_of",
    "evaluate",
    "missing",
    "questions_file",
    "read_questions",
    "release_name",
]

"""Releases as they are kept: made once, never changed, the same bytes on every node."""

from deployment.releases.catalogue.artefacts import Artefacts
from deployment.releases.catalogue.distribution import Distribution, Doing, NodeReport, Pruned, missing
from deployment.releases.catalogue.evaluation import Evaluation, Question, evaluate, questions_file, read_questions
from deployment.releases.catalogue.model import CatalogueEntry, release_name
from deployment.releases.catalogue.service import Catalogue, Wish
from deployment.releases.catalogue.store import CatalogueStore

__all__ = [
    "Artefacts",
    "Catalogue",
    "CatalogueEntry",
    "CatalogueStore",
    "Distribution",
    "Doing",
    "Evaluation",
    "NodeReport",
    "Pruned",
    "Question",
    "Wish",
    "evaluate",
    "missing",
    "questions_file",
    "read_questions",
    "release_name",
]

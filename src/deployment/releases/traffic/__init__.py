"""Which release answers a request: the table, its changes, and what became of the requests."""

from deployment.releases.traffic.choice import PIN_HEADER, Caller, Choice, Route, choose
from deployment.releases.traffic.feedback_store import Feedback, FeedbackStore, Vote
from deployment.releases.traffic.model import SETTINGS, Pin, PinKind, Shadow, Share, Split, Sticky, check, single
from deployment.releases.traffic.outcome import Outcome, OutcomeBatch, ShadowSample
from deployment.releases.traffic.outcome_store import OutcomeStore
from deployment.releases.traffic.room import TrafficRoom
from deployment.releases.traffic.service import TrafficService
from deployment.releases.traffic.store import GatewayRow, GatewayStore, TrafficStore
from deployment.releases.traffic.sync import TrafficSync
from deployment.releases.traffic.table import Traffic

__all__ = [
    "PIN_HEADER",
    "SETTINGS",
    "Caller",
    "Choice",
    "Feedback",
    "FeedbackStore",
    "GatewayRow",
    "GatewayStore",
    "Outcome",
    "OutcomeBatch",
    "OutcomeStore",
    "Pin",
    "PinKind",
    "Route",
    "Shadow",
    "ShadowSample",
    "Share",
    "Split",
    "Sticky",
    "Traffic",
    "TrafficRoom",
    "TrafficService",
    "TrafficStore",
    "TrafficSync",
    "Vote",
    "check",
    "choose",
    "single",
]

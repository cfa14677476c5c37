"""Which release answers a request: the table, its changes, and what became of the requests."""

from deployment.releases.traffic.choice import PIN_HEADER, Caller, Choice, Route, choose
from deployment.releases.traffic.feedback_store import Feedback, FeedbackStore, Vote
from deployment.releases.traffic.model import SETTINGS, Pin, PinKind, Shadow, Share, Split, Sticky, check, single
from deployment.releases.traffic.outcome import Outcome, OutcomeBatch, ShadowSample
from deployment.releases.traffic.outcome_store import OutcomeStore
from deployment.releases.traffic.outcomes import Recorder, Watch, is_failure
from deployment.releases.traffic.recent import Answered, RecentAnswers
from deployment.releases.traffic.room import TrafficRoom
from deployment.releases.traffic.service import TrafficService
from deployment.releases.traffic.shadow import MainAnswer, Shadows
from deployment.releases.traffic.store import GatewayRow, GatewayStore, TrafficStore
from deployment.releases.traffic.sync import TrafficSync
from deployment.releases.traffic.table import Traffic

__all__ = [
    "PIN_HEADER",
    "SETTINGS",
    "Answered",
    "Caller",
    "Choice",
    "Feedback",
    "FeedbackStore",
    "GatewayRow",
    "GatewayStore",
    "MainAnswer",
    "Outcome",
    "OutcomeBatch",
    "OutcomeStore",
    "Pin",
    "PinKind",
    "RecentAnswers",
    "Recorder",
    "Route",
    "Shadow",
    "ShadowSample",
    "Shadows",
    "Share",
    "Split",
    "Sticky",
    "Traffic",
    "TrafficRoom",
    "TrafficService",
    "TrafficStore",
    "TrafficSync",
    "Vote",
    "Watch",
    "check",
    "choose",
    "is_failure",
    "single",
]

"""Browsers that somebody signed in with: their cookies, who they stand for, and what they may not do."""

from deployment.access.sessions.admin import SessionService, add_session_routes
from deployment.access.sessions.browsers import Browsers, BrowserSession
from deployment.access.sessions.cookies import Cookies
from deployment.access.sessions.gate import KnownSessions
from deployment.access.sessions.store import SessionStore

__all__ = [
    "BrowserSession",
    "Browsers",
    "Cookies",
    "KnownSessions",
    "SessionService",
    "SessionStore",
    "add_session_routes",
]

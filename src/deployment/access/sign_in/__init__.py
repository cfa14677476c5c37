"""Signing in with a browser: authorization code with PKCE, and out again."""

from deployment.access.sign_in.flow import SignIn
from deployment.access.sign_in.routes import Desk, sign_in_routes

__all__ = ["Desk", "SignIn", "sign_in_routes"]

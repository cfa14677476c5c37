"""Access tokens of OpenID Connect providers."""

from deployment.access.oidc.provider import Provider
from deployment.access.oidc.tokens import TokenAuthenticator

__all__ = ["Provider", "TokenAuthenticator"]

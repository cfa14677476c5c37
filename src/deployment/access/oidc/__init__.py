"""OpenID Connect providers, and the tokens that they sign."""

from deployment.access.oidc.provider import Endpoints, Provider, Unusable, read_object
from deployment.access.oidc.tokens import TokenAuthenticator, id_token_claims

__all__ = ["Endpoints", "Provider", "TokenAuthenticator", "Unusable", "id_token_claims", "read_object"]

"""Who may call, how much, and a record of it."""

from deployment.access.authentication import Authenticator
from deployment.access.keys import NewKey, generate_key, key_sha256
from deployment.access.model import Principal

__all__ = ["Authenticator", "NewKey", "Principal", "generate_key", "key_sha256"]

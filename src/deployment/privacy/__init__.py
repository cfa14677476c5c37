"""What is kept of people, for how long, and their right to see it or have it erased."""

from deployment.privacy.keeper import Keeper
from deployment.privacy.redaction import redacted, redacted_all
from deployment.privacy.room import Privacy

__all__ = ["Keeper", "Privacy", "redacted", "redacted_all"]

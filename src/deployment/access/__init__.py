"""Who may call, how much, and a record of it."""

from deployment.access.audit import Act
from deployment.access.audit_file import FileReport, check_lines
from deployment.access.authentication import Authenticator
from deployment.access.change import record_acts
from deployment.access.doubts import doubts
from deployment.access.grants import KeyWish
from deployment.access.guard import (
    KNOWN,
    PERMISSION,
    PUBLIC,
    AdminRoute,
    Callers,
    Declared,
    Needs,
    declared,
    known,
    needs,
    public,
)
from deployment.access.keys import generate_key, key_sha256
from deployment.access.limits import Answer, LimitFact, LimitReached, Limits, Reservation, Sizes, ratelimit_headers
from deployment.access.local import LocalCaller, local_admin
from deployment.access.model import Principal, Role, Tenant
from deployment.access.permissions import BUILT_IN_ROLES, Permission
from deployment.access.recorder import Recorder
from deployment.access.required import require_authentication
from deployment.access.room import Access
from deployment.access.service import LOCAL_OPERATOR, AccessService, CreatedKey
from deployment.access.store import AccessStore, require_tenant

__all__ = [
    "BUILT_IN_ROLES",
    "KNOWN",
    "LOCAL_OPERATOR",
    "PERMISSION",
    "PUBLIC",
    "Access",
    "AccessService",
    "AccessStore",
    "Act",
    "AdminRoute",
    "Answer",
    "Authenticator",
    "Callers",
    "CreatedKey",
    "Declared",
    "FileReport",
    "KeyWish",
    "LimitFact",
    "LimitReached",
    "Limits",
    "LocalCaller",
    "Needs",
    "Permission",
    "Principal",
    "Recorder",
    "Reservation",
    "Role",
    "Sizes",
    "Tenant",
    "check_lines",
    "declared",
    "doubts",
    "generate_key",
    "key_sha256",
    "known",
    "local_admin",
    "needs",
    "public",
    "ratelimit_headers",
    "record_acts",
    "require_authentication",
    "require_tenant",
]

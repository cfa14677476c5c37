"""The admin API without a gateway: for who works on this machine, with the database itself."""

import os
import pwd
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, FastAPI

from deployment.access.audit import AuditStore
from deployment.access.audit_routes import add_audit_routes
from deployment.access.guard import Callers
from deployment.access.model import Principal
from deployment.access.routes import admin_routes
from deployment.access.service import LOCAL_OPERATOR, AccessService
from deployment.access.sessions import SessionService, SessionStore, add_session_routes
from deployment.access.store import AccessStore
from deployment.clock import Clock
from deployment.database import Database, database_url
from deployment.settings import Settings


@asynccontextmanager
async def local_admin(
    settings: Settings, clock: Clock, more: Callable[[Database, Callers], APIRouter] | None = None
) -> AsyncIterator[FastAPI]:
    """The admin API of access (keys, sessions, the record, ...) over the settings' database, and `more` of it.

    Every request is the local operator's: call it, never serve it. Running gateways see a change within a
    second. Errors are raised, not rendered; DatabaseUnavailable when the database is away.
    """
    database = Database(database_url(settings))
    try:
        await database.upgrade()
        service = AccessService(
            AccessStore(database), AuditStore(database), clock, _nobody_to_tell, settings.limits.prices
        )
        caller = LocalCaller()
        router = admin_routes(service, caller)
        add_audit_routes(router, service, caller)
        add_session_routes(router, SessionService(SessionStore(database), clock, _nobody_to_tell), caller)
        app = FastAPI()
        app.include_router(router)
        if more is not None:
            app.include_router(more(database, caller))
        yield app
    finally:
        await database.close()


class LocalCaller:
    """Whoever may open the database could do anything anyway; the record names the user of this machine."""

    def authenticate(self, _scope: Mapping[str, Any]) -> Principal:
        """The local operator, by the name of the machine's user."""
        try:
            user = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:  # a container may run as a number that has no name
            user = str(os.getuid())
        return replace(LOCAL_OPERATOR, name=f"{user} on the command line"[:64])


async def _nobody_to_tell() -> None:
    """This process keeps no keys in memory."""

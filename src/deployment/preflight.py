"""What a gateway refuses to start with, asked before anything is started.

`ramsey up`, `ramsey doctor` and `ramsey config check` ask here; here are asked the very functions that refuse when the
gateway starts, so that all four say the same.
"""

from collections.abc import Awaitable, Callable

from deployment.access import require_authentication
from deployment.app import Services, build
from deployment.clock import SystemClock
from deployment.errors import RamseyError
from deployment.gateway.listener import load_certificates
from deployment.releases import check_model
from deployment.settings import Settings


async def refusals(settings: Settings) -> dict[str, RamseyError]:
    """Why a gateway does not start with these settings, by what was looked at; empty where it does.

    Neither the port nor the disk is looked at.
    """
    try:
        services = build(settings)
    except RamseyError as error:
        return {"start": error}
    found = {}
    try:
        for name, check in _CHECKS.items():
            try:
                await check(services)
            except RamseyError as error:
                found[name] = error
    finally:
        await services.database.close()
    return found


async def require_startable(settings: Settings) -> None:
    """Raise the first of the `refusals`."""
    for error in (await refusals(settings)).values():
        raise error


async def _model(services: Services) -> None:
    check_model(services.settings)


async def _tls(services: Services) -> None:
    load_certificates(services.settings.server)


async def _privacy(services: Services) -> None:
    services.privacy.check()


async def _access(services: Services) -> None:
    await require_authentication(services.settings, services.database, SystemClock())


_CHECKS: dict[str, Callable[[Services], Awaitable[None]]] = {
    "model": _model,
    "tls": _tls,
    "privacy": _privacy,
    "access": _access,
}

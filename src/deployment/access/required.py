"""Outside development a gateway starts only where somebody can be let in."""

from pathlib import Path

from deployment.access.store import AccessStore
from deployment.clock import Clock
from deployment.database import Database
from deployment.errors import ConfigurationError, DatabaseUnavailable
from deployment.settings import Profile, Settings


async def require_authentication(settings: Settings, database: Database, clock: Clock) -> None:
    """Raise ConfigurationError when neither the settings nor the database have a way to authenticate.

    A database that is away may hold keys, and until it is back nobody is let in: no reason not to start.
    """
    if settings.profile is Profile.DEVELOPMENT or settings.access.keys or settings.access.oidc:
        return
    known = False
    try:
        if _is_there(database):  # a look alone makes no file
            await database.upgrade()
            known = await AccessStore(database).has_usable_key(clock.now())
    except DatabaseUnavailable:
        return
    if not known:
        raise ConfigurationError(
            f"The profile {settings.profile.value} needs authentication, and there is no key.",
            hint="Make one: ramsey keys create --name NAME. Or name a provider of tokens under [[access.oidc]].",
        )


def _is_there(database: Database) -> bool:
    return not database.is_sqlite or Path(database.url.database or "").exists()

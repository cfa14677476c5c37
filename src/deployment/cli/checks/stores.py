"""Where state is kept and shared: the database, and each Redis."""

import asyncio

from deployment.cli.checks.finding import Finding
from deployment.database import DATABASE_FILE, Database, database_url
from deployment.errors import ConfigurationError, RamseyError
from deployment.secret_store import looked_up
from deployment.settings import Settings, redis_address, shown_url

_REDIS_S = 2.0


def state(settings: Settings) -> list[Finding]:
    """The database answers; a file is whole."""
    if settings.database.url is None and not (settings.data_dir / DATABASE_FILE).exists():
        return []  # nothing has run here yet

    async def look() -> str:
        database = Database(database_url(looked_up(settings)))
        try:
            await database.check()
        finally:
            await database.close()
        return str(database.url.database) if database.is_sqlite else database.shown_url

    try:
        return [Finding("state", "ok", asyncio.run(look()))]
    except RamseyError as error:
        detail = "; ".join(getattr(error, "__notes__", ()))
        where = "database.url: " if settings.database.url is not None else ""
        return [Finding("state", "wrong", f"{where}{error.message}", error.hint or detail)]


def redis(settings: Settings) -> list[Finding]:
    """Each Redis answers. Without it gateways go on, each by itself."""
    try:
        settings = looked_up(settings)
        urls = {
            "limits.redis_url": settings.limits.redis_url,
            "cache.redis_url": settings.cache.redis_url if settings.cache.enabled else None,
            "pool.redis_url": settings.pool.redis_url,
        }
        given = {name: redis_address(url, name) for name, url in urls.items() if url is not None}
        return [asyncio.run(_redis(name, url)) for name, url in given.items()]
    except ConfigurationError:
        return []  # `start` tells it


async def _redis(setting: str, url: str) -> Finding:
    try:
        from redis.asyncio import Redis
        from redis.exceptions import AuthenticationError, RedisError
    except ModuleNotFoundError:
        return Finding("redis", "wrong", f"{setting} needs the package redis", "pip install 'ramsey[redis]'")
    variable = f"RAMSEY_{setting.upper().replace('.', '__')}"
    try:
        async with Redis.from_url(url, socket_timeout=_REDIS_S, socket_connect_timeout=_REDIS_S) as client:
            await client.execute_command("PING")  # type: ignore[no-untyped-call] # redis has no types for it
    except AuthenticationError:
        return Finding("redis", "warning", f"{setting}: Redis refuses the password", f"Correct {variable}.")
    except (RedisError, OSError, ValueError) as error:
        text = f"{setting}: Redis at {shown_url(url.partition('?')[0])} does not answer ({type(error).__name__})"
        return Finding("redis", "warning", text, f"Start it, or correct {variable}; until then each gateway is alone.")
    return Finding("redis", "ok", f"{setting} answers")

"""Every setting, read once: `ramsey.toml`, then `RAMSEY_*` variables over it.

Nested settings are reached with two underscores: `RAMSEY_SERVER__PORT=9000` is `[server] port = 9000`.
This is the only room that reads the environment. `docs/configuration.md` is checked against it by a test.
"""

from deployment.settings.access import (
    AccessSettings,
    ApiKey,
    LimitSet,
    LimitsSettings,
    OidcProvider,
    Price,
    SessionSettings,
)
from deployment.settings.addresses import redis_address, shown_url
from deployment.settings.engines import EngineKind, EngineSettings, NodeSettings, PlacementPolicy, PoolSettings
from deployment.settings.environment import OTHER_VARIABLES, api_key, environment, ollama_host_url
from deployment.settings.loading import CONFIG_FILE, config_path, describe_variables, load
from deployment.settings.releases import ReleasesSettings, TrafficSettings
from deployment.settings.section import Section
from deployment.settings.serving import CacheSettings, ModelSettings, ServerSettings
from deployment.settings.state import (
    DatabaseSettings,
    LogLevel,
    LogSettings,
    PrivacyKey,
    PrivacySettings,
    SecretsSettings,
)
from deployment.settings.tree import Profile, Settings

__all__ = [
    "CONFIG_FILE",
    "OTHER_VARIABLES",
    "AccessSettings",
    "ApiKey",
    "CacheSettings",
    "DatabaseSettings",
    "EngineKind",
    "EngineSettings",
    "LimitSet",
    "LimitsSettings",
    "LogLevel",
    "LogSettings",
    "ModelSettings",
    "NodeSettings",
    "OidcProvider",
    "PlacementPolicy",
    "PoolSettings",
    "Price",
    "PrivacyKey",
    "PrivacySettings",
    "Profile",
    "ReleasesSettings",
    "SecretsSettings",
    "Section",
    "ServerSettings",
    "SessionSettings",
    "Settings",
    "TrafficSettings",
    "api_key",
    "config_path",
    "describe_variables",
    "environment",
    "load",
    "ollama_host_url",
    "redis_address",
    "shown_url",
]

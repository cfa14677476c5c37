"""All settings together, and what is over what."""

from enum import StrEnum
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from deployment.settings.access import AccessSettings, LimitsSettings
from deployment.settings.engines import EngineSettings, PoolSettings
from deployment.settings.environment import from_ollama_variables
from deployment.settings.releases import ReleasesSettings, TrafficSettings
from deployment.settings.serving import CacheSettings, ModelSettings, ServerSettings
from deployment.settings.state import DatabaseSettings, LogSettings, PrivacySettings, SecretsSettings


class Profile(StrEnum):
    """Where Ramsey runs. Only development lets an anonymous caller in, and only from loopback."""

    DEVELOPMENT = "development"
    STAGING = "staging"
    PRODUCTION = "production"


class Settings(BaseSettings):
    """All of them. Build with `load()`."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="RAMSEY_",
        env_nested_delimiter="__",
        env_ignore_empty=True,
    )

    profile: Profile = Field(Profile.DEVELOPMENT, description="development, staging or production.")
    data_dir: Path = Field(Path(".ramsey"), description="Where Ramsey keeps its state.")
    server: ServerSettings = Field(default_factory=ServerSettings)
    model: ModelSettings = Field(default_factory=ModelSettings)
    engine: EngineSettings = Field(default_factory=EngineSettings)
    pool: PoolSettings = Field(default_factory=PoolSettings)
    access: AccessSettings = Field(default_factory=AccessSettings)
    cache: CacheSettings = Field(default_factory=CacheSettings)
    limits: LimitsSettings = Field(default_factory=LimitsSettings)
    releases: ReleasesSettings = Field(default_factory=ReleasesSettings)
    traffic: TrafficSettings = Field(default_factory=TrafficSettings)
    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    secrets: SecretsSettings = Field(default_factory=SecretsSettings)
    privacy: PrivacySettings = Field(default_factory=PrivacySettings)
    log: LogSettings = Field(default_factory=LogSettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags over RAMSEY_* variables over the file over Ollama's own variables."""
        file = TomlConfigSettingsSource(settings_cls)
        ollama = InitSettingsSource(settings_cls, from_ollama_variables())
        return init_settings, env_settings, file, ollama

    @model_validator(mode="after")
    def _engine_is_not_the_gateway(self) -> Self:
        """OLLAMA_HOST that points at the gateway is right for clients, and a circle for the gateway itself."""
        engine = urlsplit(self.engine.host)
        here = engine.hostname in {"127.0.0.1", "localhost", "::1", self.server.host}
        if here and engine.port == self.server.port != 0 and not self.pool.nodes and not self.pool.dns:
            raise ValueError(
                f"engine.host ({self.engine.host}) is the gateway's own address: set RAMSEY_ENGINE__HOST, "
                "or unset OLLAMA_HOST where Ramsey starts"
            )
        return self

    @model_validator(mode="after")
    def _signing_in_has_an_address(self) -> Self:
        public_url = self.server.public_url
        if public_url is None and any(provider.client_id for provider in self.access.oidc):
            raise ValueError(
                "access.oidc[].client_id needs server.public_url: the address to which people come back signed in"
            )
        if public_url is not None and public_url.startswith("http:") and self.profile is not Profile.DEVELOPMENT:
            raise ValueError(f"server.public_url must be https in the profile {self.profile.value}")
        return self

    @property
    def models_dir(self) -> Path:
        """The store of an engine that Ramsey starts."""
        return self.engine.models_dir or self.data_dir / "models"

    @property
    def releases_dir(self) -> Path:
        """Where the weights of releases are kept."""
        return self.releases.folder or self.data_dir / "releases"

"""Where the state is kept, where secrets come from, and what is logged."""

from enum import StrEnum
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from deployment.settings.addresses import Url
from deployment.settings.section import Seconds, Section


class DatabaseSettings(Section):
    """Where the state is kept."""

    url: SecretStr | None = Field(
        None,
        description="postgresql://USER:PASSWORD@HOST/DATABASE, or sqlite:///PATH; by default a SQLite file "
        "ramsey.db in the data directory.",
    )


class SecretsSettings(Section):
    """Where secrets come from: each may say env:NAME, file:/PATH, vault:PATH#FIELD or aws:NAME#FIELD."""

    refresh_seconds: Seconds = Field(
        300.0, description="Time between two looks at Vault and AWS, in seconds; files are read when they change."
    )
    vault_url: Url | None = Field(None, repr=False, pattern=r"^https?://[^\s]+$", description="HashiCorp Vault.")
    vault_auth: Literal["token", "approle", "kubernetes"] = Field("token", description="How to log in to Vault.")
    vault_auth_mount: str | None = Field(None, description="Where that way is mounted; by default its name.")
    vault_mount: str = Field("secret", min_length=1, description="Mount of the key-value store, version 2.")
    vault_namespace: str | None = Field(None, description="Namespace (Vault Enterprise).")
    vault_ca: Path | None = Field(None, description="Certificates that Vault's own is trusted by; else the system's.")
    vault_token: SecretStr | None = Field(None, description="With token; may say env:NAME or file:/PATH.")
    vault_role_id: SecretStr | None = Field(None, description="With approle; may say env:NAME or file:/PATH.")
    vault_secret_id: SecretStr | None = Field(None, description="With approle; may say env:NAME or file:/PATH.")
    vault_role: str | None = Field(None, description="With kubernetes: the role to log in for.")
    vault_jwt_file: Path = Field(
        Path("/var/run/secrets/kubernetes.io/serviceaccount/token"),
        description="With kubernetes: the service account's token.",
    )
    aws_region: str | None = Field(None, description="Region of AWS Secrets Manager (extra `aws`); else AWS's own way.")
    aws_endpoint: str | None = Field(None, description="Another endpoint, for instance one inside a VPC.")


class LogLevel(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogSettings(Section):
    """What is logged, and how."""

    level: LogLevel = Field(LogLevel.INFO, description="Least important level that is logged.")
    prompts: bool = Field(False, description="Also log prompts. They may hold personal data.")


class PrivacyKey(Section):
    """A key that conversations are sealed with."""

    id: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="Its name; stands beside what it sealed.")
    secret: SecretStr = Field(description="32 bytes in base64, or where they are: env:, file:, vault:, aws:.")


class PrivacySettings(Section):
    """Conversations that tenants ask to keep. Nobody's are kept by themselves."""

    keys: tuple[PrivacyKey, ...] = Field(
        (), description="The first seals conversations, all open them. Without one nothing can be kept."
    )
    redact_logs: bool = Field(True, description="Replace personal data in prompts that log.prompts writes.")

    @model_validator(mode="after")
    def _each_key_once(self) -> Self:
        if len({key.id for key in self.keys}) < len(self.keys):
            raise ValueError("two keys have the same id")
        return self

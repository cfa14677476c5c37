"""Secrets that live elsewhere: any secret setting may say `env:`, `file:`, `vault:` or `aws:` in place of a value.

They are looked up when the application is made, so that a wrong one is told at once, and again while it runs: a
file within a second of its change, Vault and AWS in an interval. A store that is away leaves the last value.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import structlog
from pydantic import BaseModel, SecretStr

from deployment.background import going_on
from deployment.errors import ConfigurationError
from deployment.settings import SecretsSettings, Settings, environment
from deployment.vault import Vault, VaultError

_REFERENCE = re.compile(r"(env|file|vault|aws):(.+)")
_FILES_EVERY_S = 1.0
_Model = TypeVar("_Model", bound=BaseModel)


class LiveSecret(SecretStr):
    """A secret that is asked for anew each time; shown as stars, as every SecretStr."""

    def __init__(self, read: Callable[[], str]) -> None:
        super().__init__("looked up")
        self._read = read

    def get_secret_value(self) -> str:
        """Its value now."""
        return self._read()


class SecretStore:
    """Looks references up and remembers what they said. Construction reads nothing."""

    def __init__(self, settings: SecretsSettings, variables: Mapping[str, str]) -> None:
        self._settings = settings
        self._variables = variables
        self._vault = Vault(settings, self._near)
        self._values: dict[str, str] = {}
        self._stamps: dict[str, tuple[int, ...]] = {}
        self._log = structlog.get_logger("deployment.secrets")
        self.problem: str | None = None
        """Why a secret could not be looked up again; for /health."""

    def resolved(self, settings: Settings) -> Settings:
        """The settings with every reference looked up.

        Raises ConfigurationError that names the setting and the reference, never a value.
        """
        return self._walk(settings, "")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look up again in the background until the end."""
        if not self._values:
            yield
            return
        async with going_on(self._loop, "secrets"):
            yield

    def refresh_files(self) -> None:
        """Read again the files that changed."""
        changed = [one for one in self._values if one.startswith("file:") and _stamp(one) != self._stamps.get(one)]
        self._refresh(changed)

    def refresh_remote(self) -> None:
        """Ask Vault and AWS again."""
        self._refresh([one for one in self._values if one.startswith(("vault:", "aws:"))])

    def _refresh(self, references: list[str]) -> None:
        problem = None
        for reference in references:
            try:
                value = self._look_up(reference)
            except SecretUnreadableError as error:
                problem = f"The secret {reference} cannot be read again: {error}"
                self._log.warning("secret_unreadable", secret=reference, reason=str(error))
                continue
            if value != self._values[reference]:
                self._values[reference] = value
                self._log.info("secret_changed", secret=reference)
        if references:
            self.problem = problem

    def _walk(self, model: _Model, path: str) -> _Model:
        changed: dict[str, Any] = {}
        for name in type(model).model_fields:
            value = getattr(model, name)
            at = f"{path}{name}"
            if isinstance(value, SecretsSettings):
                continue
            if isinstance(value, BaseModel):
                new: Any = self._walk(value, f"{at}.")
            elif isinstance(value, SecretStr):
                new = self._live(value, at)
            elif isinstance(value, tuple) and any(isinstance(one, BaseModel) for one in value):
                new = tuple(self._walk(one, f"{at}[].") for one in value)
            else:
                continue
            if new is not value:
                changed[name] = new
        return model.model_copy(update=changed) if changed else model

    def _live(self, secret: SecretStr, setting: str) -> SecretStr:
        reference = secret.get_secret_value()
        if isinstance(secret, LiveSecret) or not _REFERENCE.fullmatch(reference):
            return secret
        if reference not in self._values:
            try:
                self._values[reference] = self._look_up(reference)
            except SecretUnreadableError as error:
                raise ConfigurationError(f"{setting}: the secret {reference} cannot be read: {error}") from None
        return LiveSecret(lambda: self._values[reference])

    def _look_up(self, reference: str) -> str:
        match = _REFERENCE.fullmatch(reference)
        kind, where = match.groups() if match else ("", reference)
        if kind in {"env", "file"}:
            return self._near(SecretStr(reference))
        name, _, part = where.rpartition("#")
        try:
            if kind == "vault":
                if not name:
                    raise SecretUnreadableError("write vault:PATH#FIELD.")
                return self._vault.read(name, part)
            return _from_aws(self._settings, name or where, part if name else "")
        except VaultError as error:
            raise SecretUnreadableError(str(error)) from None

    def _near(self, secret: SecretStr) -> str:
        """A secret of this machine: a variable, a file, or the value itself."""
        reference = secret.get_secret_value()
        kind, _, where = reference.partition(":")
        if kind == "env":
            value = self._variables.get(where)
            if not value:
                raise SecretUnreadableError(f"the environment has no {where}.")
            return value
        if kind == "file":
            self._stamps[reference] = _stamp(reference)
            try:
                return Path(where).read_text().rstrip("\r\n")
            except (OSError, ValueError) as error:  # ValueError: what no file is called, or no text
                raise SecretUnreadableError(f"{getattr(error, 'strerror', None) or 'it is not text'}.") from None
        return reference

    async def _loop(self) -> None:
        loop = asyncio.get_running_loop()
        remote_at = loop.time() + self._settings.refresh_seconds
        while True:
            await asyncio.sleep(_FILES_EVERY_S)
            await asyncio.to_thread(self.refresh_files)
            if loop.time() >= remote_at:
                remote_at = loop.time() + self._settings.refresh_seconds
                await asyncio.to_thread(self.refresh_remote)


class SecretUnreadableError(Exception):
    """Why a secret cannot be had, in words without it."""


def looked_up(settings: Settings) -> Settings:
    """The settings with every reference looked up once, for a process that is soon over."""
    return SecretStore(settings.secrets, environment()).resolved(settings)


def _stamp(reference: str) -> tuple[int, ...]:
    """What changes when the file does; also when Kubernetes puts another one in its place."""
    try:
        told = Path(reference.removeprefix("file:")).stat()
    except (OSError, ValueError):
        return ()
    return (told.st_mtime_ns, told.st_size, told.st_ino)


def _from_aws(settings: SecretsSettings, name: str, part: str) -> str:
    """A secret of AWS Secrets Manager, or one field of a secret in JSON."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ModuleNotFoundError:
        raise SecretUnreadableError("AWS needs its package: pip install 'ramsey[aws]'.") from None
    import json

    config = Config(connect_timeout=5, read_timeout=5, retries={"max_attempts": 2})
    try:
        client = boto3.client(
            "secretsmanager", region_name=settings.aws_region, endpoint_url=settings.aws_endpoint, config=config
        )
        text = client.get_secret_value(SecretId=name)["SecretString"]
    except ClientError as error:
        raise SecretUnreadableError(f"AWS says {error.response['Error']['Code']}.") from None
    except KeyError:
        raise SecretUnreadableError("it is not text.") from None
    except (BotoCoreError, ValueError) as error:
        raise SecretUnreadableError(f"AWS cannot be asked: {type(error).__name__}.") from None
    if not part:
        return str(text)
    try:
        return str(json.loads(text)[part])
    except (ValueError, KeyError, TypeError):
        raise SecretUnreadableError(f"it has no field {part}.") from None

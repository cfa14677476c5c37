"""HashiCorp Vault's key-value store, version 2, by plain HTTP: three calls need no library."""

import json
import ssl
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from pydantic import SecretStr

from deployment.settings import SecretsSettings

_TIMEOUT_S = 5.0
_FORBIDDEN = 403


class VaultError(Exception):
    """Why a secret cannot be had, in words without it."""


class Vault:
    """Reads secrets. Logs in when it must; a token that Vault no longer takes is renewed by another login.

    `near` gives the value of a setting that itself may say `env:` or `file:`.
    """

    def __init__(self, settings: SecretsSettings, near: Callable[[SecretStr], str]) -> None:
        self._settings = settings
        self._near = near
        self._token: str | None = None

    def read(self, path: str, field: str) -> str:
        """A field of the secret at `path` under the mount. Blocks. Raises VaultError."""
        at = f"/v1/{quote(self._settings.vault_mount)}/data/{quote(path.strip('/'))}"
        fresh = self._token is None
        status, answer = self._ask("GET", at, token=self._logged_in())
        if status == _FORBIDDEN and not fresh:
            self._token = None
            status, answer = self._ask("GET", at, token=self._logged_in())
        if status != 200:
            raise VaultError(f"Vault has no such secret ({status})." if status == 404 else f"Vault answers {status}.")
        try:
            value = answer["data"]["data"][field]
        except (KeyError, TypeError):
            raise VaultError(f"it has no field {field}.") from None
        return str(value)

    def _logged_in(self) -> str:
        if self._token is None:
            self._token = self._log_in()
        return self._token

    def _log_in(self) -> str:
        settings = self._settings
        if settings.vault_auth == "token":
            return self._given("vault_token", settings.vault_token)
        if settings.vault_auth == "approle":
            body = {
                "role_id": self._given("vault_role_id", settings.vault_role_id),
                "secret_id": self._given("vault_secret_id", settings.vault_secret_id),
            }
        else:
            try:
                body = {"role": settings.vault_role or "", "jwt": Path(settings.vault_jwt_file).read_text().strip()}
            except OSError as error:
                raise VaultError(f"secrets.vault_jwt_file: {error.strerror}.") from None
        mount = settings.vault_auth_mount or settings.vault_auth
        status, answer = self._ask("POST", f"/v1/auth/{quote(mount)}/login", body)
        try:
            if status == 200:
                return str(answer["auth"]["client_token"])
        except (KeyError, TypeError):
            pass
        raise VaultError(f"Vault refuses the login by {settings.vault_auth} ({status}).")

    def _given(self, name: str, secret: SecretStr | None) -> str:
        if secret is None:
            raise VaultError(f"secrets.{name} is not set.")
        return self._near(secret)

    def _ask(self, method: str, path: str, body: dict[str, str] | None = None, token: str = "") -> tuple[int, Any]:
        settings = self._settings
        if settings.vault_url is None:
            raise VaultError("secrets.vault_url is not set.")
        parts = urlsplit(settings.vault_url)
        headers = {"X-Vault-Request": "true"}
        headers |= {"X-Vault-Token": token} if token else {}
        headers |= {"X-Vault-Namespace": settings.vault_namespace} if settings.vault_namespace else {}
        try:
            connection = self._connection(parts.scheme, parts.hostname or "", parts.port)
            try:
                connection.request(method, parts.path.rstrip("/") + path, json.dumps(body) if body else None, headers)
                response = connection.getresponse()
                content = response.read()
            finally:
                connection.close()
        except (OSError, HTTPException) as error:
            raise VaultError(f"Vault does not answer: {type(error).__name__}.") from None
        try:
            return response.status, json.loads(content)
        except ValueError:
            return response.status, None

    def _connection(self, scheme: str, host: str, port: int | None) -> HTTPConnection:
        if scheme == "http":
            return HTTPConnection(host, port, timeout=_TIMEOUT_S)
        context = ssl.create_default_context(cafile=self._settings.vault_ca)
        return HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=context)

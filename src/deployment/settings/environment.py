"""The environment. Nothing else reads it but pydantic-settings, for the tree of settings."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from deployment.errors import ConfigurationError
from deployment.spelling import near

OTHER_VARIABLES = {
    "RAMSEY_CONFIG": "The settings file; by default ramsey.toml in the working directory.",
    "RAMSEY_API_KEY": "The key with which the command line calls a gateway.",
}
"""Variables that are no settings."""


# A Kubernetes Service or Docker link called ramsey-… puts RAMSEY_…_PORT into containers beside it.
_SERVICE_LINK = re.compile(
    r"_SERVICE_HOST=|_SERVICE_PORT(_\w+)?=\d+$|_PORT(_\d+_\w+)?=(tcp|udp)://|_PORT_\d+_(TCP|UDP)_"
)


def named_config() -> Path | None:
    """The settings file that $RAMSEY_CONFIG names."""
    return Path(named) if (named := os.environ.get("RAMSEY_CONFIG")) else None


def environment() -> dict[str, str]:
    """A copy of the environment, to hand to child processes and to look programs up."""
    return dict(os.environ)


def variables_holding(value: str | None) -> list[str]:
    """The names of our variables that hold it."""
    return sorted(name for name, held in os.environ.items() if name.startswith("RAMSEY_") and held == value)


def api_key() -> SecretStr | None:
    """The key with which the command line calls a gateway."""
    key = os.environ.get("RAMSEY_API_KEY", "").strip()
    return SecretStr(key) if key else None


def from_ollama_variables() -> dict[str, Any]:
    """Ollama's own variables, so that a machine set up for Ollama needs nothing more."""
    engine: dict[str, Any] = {}
    if host := os.environ.get("OLLAMA_HOST", "").strip():
        engine["host"] = ollama_host_url(host)
    if models := os.environ.get("OLLAMA_MODELS", "").strip():
        engine["models_dir"] = models
    return {"engine": engine} if engine else {}


def ollama_host_url(host: str) -> str:
    """What OLLAMA_HOST means to a client: a URL, with Ollama's default ports.

    `0.0.0.0` is where a server listens; a client reaches it at loopback.
    """
    scheme, _, rest = host.strip().rstrip("/").rpartition("://")
    default_port = {"http": 80, "https": 443}.get(scheme, 11434)
    name, colon, port = rest.rpartition(":")
    if not colon or port.endswith("]") or not port.isdigit():
        name, port = rest, str(default_port)
    if name in {"", "0.0.0.0", "[::]"}:  # noqa: S104 - read, not bound
        name = "127.0.0.1"
    return f"{scheme or 'http'}://{name}:{port}"


def refuse_unknown_variables(settings: Iterable[str]) -> None:
    """A misspelt RAMSEY_ variable would be ignored in silence otherwise."""
    known = {f"RAMSEY_{name}" for name in settings}
    for variable in sorted(os.environ):
        if not variable.startswith("RAMSEY_") or variable in known | OTHER_VARIABLES.keys():
            continue
        if _SERVICE_LINK.search(f"{variable}={os.environ[variable]}"):
            continue
        meant = near(variable, known)
        raise ConfigurationError(
            f"The environment sets {variable}, which is no setting.",
            hint=f"Did you mean {meant}?" if meant else "`ramsey config docs` lists every setting.",
        )

"""Addresses that may hold a password, and how they are shown without it."""

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import PlainSerializer, SecretStr

from deployment.errors import ConfigurationError

_USER = re.compile(r"(?<=//)[^/\s]*@")
_REDIS = frozenset({"redis", "rediss", "unix"})


def shown_url(url: str) -> str:
    """A URL for logs, errors and lists: without the user and password that it may hold."""
    return _USER.sub("***@", url)


Url = Annotated[str, PlainSerializer(shown_url, when_used="json")]
"""An address that may hold a password: shown without it. Its field also needs `repr=False`."""


def redis_address(url: SecretStr, setting: str) -> str:
    """The URL of a Redis. Raises ConfigurationError, which never tells it, where it is none."""
    value = url.get_secret_value()
    try:
        parts = urlsplit(value)
        usable = parts.scheme in _REDIS and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise ConfigurationError(
            f"{setting} is no URL of a Redis.",
            hint="Write redis://:PASSWORD@HOST:6379/0 (rediss:// over TLS, unix:// a socket); escape / and @ in it.",
        )
    return value

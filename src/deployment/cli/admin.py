"""Whom administrative verbs ask: a gateway with the caller's key, else this machine's own database."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Protocol
from urllib.parse import quote, unquote, urlsplit

import typer

from deployment.cli.context import gateway_of, settings_of
from deployment.errors import ConfigurationError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from deployment.settings import Settings

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="Gateway to ask, with the key in RAMSEY_API_KEY; by default the database itself, where no key is set.",
        metavar="URL",
    ),
]
_PAGE = 1000
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class Admin(Protocol):
    """The admin API. Every call raises the API's own error."""

    def get(self, path: str) -> dict[str, Any]:
        """The object at `path`."""
        ...

    def items(self, path: str) -> list[dict[str, Any]]:
        """The list at `path`."""
        ...

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to `body`; empty where there is none."""
        ...

    def put(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to `body`, which replaces what is at `path`."""
        ...

    def delete(self, path: str) -> None:
        """Delete what is at `path`."""
        ...


def admin_of(context: typer.Context, url: str | None) -> Admin:
    """The gateway where a `url` or a key is given, else the database: no key can be had before the first one."""
    from deployment.settings import api_key

    if url is not None or api_key() is not None:
        return gateway_of(context, url)
    return LocalAdmin(settings_of(context))


def all_pages(admin: Admin, path: str, tenant: str | None) -> list[dict[str, Any]]:
    """All that the pages at `path` list, of one tenant where it is named; each page begins after the last public id."""
    found: list[dict[str, Any]] = []
    narrowed = f"&tenant={segment(tenant)}" if tenant else ""
    while True:
        after = found[-1]["public_id"] if found else ""
        page = admin.items(f"{path}?limit={_PAGE}&after={after}{narrowed}")
        found += page
        if len(page) < _PAGE:
            return found


class LocalAdmin:
    """The admin API over the settings' database, in this process."""

    def __init__(self, settings: "Settings") -> None:
        self._settings = settings

    def get(self, path: str) -> dict[str, Any]:
        """The object at `path`."""
        return dict(self._ask("GET", path))

    def items(self, path: str) -> list[dict[str, Any]]:
        """The list at `path`."""
        return list(self._ask("GET", path))

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to `body`; empty where there is none."""
        return dict(self._ask("POST", path, body) or {})

    def put(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to `body`, which replaces what is at `path`."""
        return dict(self._ask("PUT", path, body))

    def delete(self, path: str) -> None:
        """Delete what is at `path`."""
        self._ask("DELETE", path)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        import asyncio

        return asyncio.run(self._answer(method, path, json.dumps(body).encode() if body is not None else b""))

    async def _answer(self, method: str, path: str, body: bytes) -> Any:
        from fastapi import APIRouter
        from prometheus_client import CollectorRegistry

        from deployment.access import Callers, local_admin
        from deployment.clock import SystemClock
        from deployment.database import Database
        from deployment.privacy import Privacy
        from deployment.releases import FeedbackStore
        from deployment.secret_store import looked_up

        settings, clock = looked_up(self._settings), SystemClock()

        def privacy(database: Database, caller: Callers) -> APIRouter:
            return Privacy(settings.privacy, database, FeedbackStore(), clock, CollectorRegistry()).routes(caller)

        async with local_admin(settings, clock, privacy) as app:
            content = await called(app, method, path, body)
        return json.loads(content) if content else None


async def called(
    app: "FastAPI", method: str, path: str, body: bytes, told: Callable[[bytes], None] = lambda _: None
) -> bytes:
    """What the application answers, without a socket between. Its errors are raised here."""
    parts = urlsplit(path)
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(parts.path),
        "raw_path": parts.path.encode(),
        "query_string": parts.query.encode(),
        "root_path": "",
        "headers": [(b"content-type", b"application/json")],
        "client": None,
        "server": None,
    }
    content = b""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        nonlocal content
        content += message.get("body", b"")
        told(message.get("body", b""))

    await app(scope, receive, send)
    return content


def segment(text: str) -> str:
    """A name as one part of a path."""
    return quote(text, safe="")


def span(text: str, option: str) -> timedelta:
    """A length such as 30m, 12h, 90d. Raises ConfigurationError that names the option."""
    number, unit = text[:-1], text[-1:]
    if not (number.isascii() and number.isdigit() and unit in _UNITS) or len(number) > 6:
        raise ConfigurationError(f"{option} {text}: write a number and one of s, m, h, d, w, for instance 90d.")
    return timedelta(seconds=int(number) * _UNITS[unit])


def moment(text: str, now: datetime, option: str) -> datetime:
    """A time: a length from `now`, or a date or time in ISO 8601, by UTC where it names no zone."""
    try:
        if text[-1:] in _UNITS and text[:-1].isdigit():
            return now + span(text, option)
        given = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"{option} {text}: write a length such as 90d, or a time such as 2027-01-31."
        ) from None
    return given if given.tzinfo is not None else given.replace(tzinfo=now.tzinfo)


def shown_time(text: str | None) -> str:
    """A time of the API's, to the second, for people."""
    return f"{text[:19].replace('T', ' ')}" if text else "-"


def plain(text: str) -> str:
    """A name as it is: what looks like rich's markup is text."""
    from rich.markup import escape

    return escape(text)

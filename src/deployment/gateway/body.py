"""A body: read within its bounds, understood, and refused with the name of the field that is wrong."""

import asyncio
import re
from collections.abc import Iterable
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployment.errors import InvalidRequest, PayloadTooLarge, RequestTimeout
from deployment.gateway.listener import connection_of
from deployment.spelling import misspelt

Body = TypeVar("Body", bound=BaseModel)

_FIELD = re.compile(r"^[a-z_][a-z0-9_]*$")  # pydantic also names the alternative that it tried: constrained-str
_BODILESS = frozenset({"GET", "HEAD", "OPTIONS"})
_ANOTHER_TYPE = frozenset({"string_type", "list_type", "dict_type", "literal_error", "bool_type", "float_type"})
_NAMES = frozenset({"missing", "extra_forbidden"})
_PLAINER = {
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "json_invalid": "the body is not valid JSON",
    "missing": "is required",
    "extra_forbidden": "there is no such field",
    "finite_number": "must be a finite number",
}


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """The whole body.

    Raises PayloadTooLarge over `limit` bytes (before reading, where the length is declared), RequestTimeout if
    it has not come after `seconds`, ClientDisconnect when the caller left.
    """
    for name, value in request.scope["headers"]:
        if name == b"content-length":
            if value.isdigit() and int(value) > limit:
                raise _too_large(limit)
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise InvalidRequest("Compressed bodies are not accepted.", hint="Send it without Content-Encoding.")
    connection = connection_of(request.scope)
    if connection is not None and (body := connection.whole_body()) is not None:
        if len(body) > limit:
            raise _too_large(limit)
        return body
    try:
        async with asyncio.timeout(seconds):
            return await _all_of(request.receive, limit)
    except TimeoutError:
        raise RequestTimeout(f"The body did not arrive within {seconds:g} s.") from None


async def _all_of(receive: Receive, limit: int) -> bytes:
    chunks, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


class BoundedBodies:
    """ASGI middleware for endpoints whose bodies the framework reads, which knows no bounds.

    A body is read once it is asked for: a caller who may not do this is told so before. Paths that begin with
    `streamed` bound their bodies themselves.
    """

    def __init__(self, app: ASGIApp, limit: int, seconds: float, streamed: str) -> None:
        self._app, self._limit, self._seconds, self._streamed = app, limit, seconds, streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; its body comes whole. Asking for it raises as `read_body`."""
        if scope["type"] != "http" or scope["method"] in _BODILESS or scope["path"].startswith(self._streamed):
            await self._app(scope, receive, send)
            return
        asked = False

        async def whole() -> Message:
            nonlocal asked
            if asked:
                return await receive()
            asked = True
            body = await read_body(Request(scope, receive), self._limit, self._seconds)
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, whole, send)


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than {limit} bytes.", hint="Send less, or raise server.max_body_bytes.")


def parse(schema: type[Body], body: bytes) -> Body:
    """The body as `schema`. Raises InvalidRequest that names the first wrong field, never its value."""
    if not body:
        raise InvalidRequest("The request has no body.", hint="Send a JSON object.")
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
    _refuse_misspelt(problems, schema, body)
    problem = _plainest(problems)
    kind = problem["type"]
    reason = _PLAINER.get(kind, problem["msg"].removeprefix("Value error, ").replace(" after validation", ""))
    if kind == "json_invalid":
        detail = str(problem.get("ctx", {}).get("error", ""))
        raise InvalidRequest(f"The body is not valid JSON: {detail}.")
    where = _where(problem["loc"])
    raise InvalidRequest(f"{where}: {reason}." if where else f"{reason}.", param=where or None)


def _refuse_misspelt(problems: list[ErrorDetails], schema: type[BaseModel], body: bytes) -> None:
    """A name that is nearly a field's says more than that the field is missing."""
    if not any(problem["type"] in _NAMES for problem in problems):
        return
    if found := misspelt(problems, schema, from_json(body)):
        where = _where(found[0])
        raise InvalidRequest(f"{where}: there is no such field; did you mean {found[1]}?", param=where)


def _where(path: Iterable[int | str]) -> str:
    return ".".join(str(part) for part in path if isinstance(part, int) or _FIELD.match(part))


def _plainest(problems: list[ErrorDetails]) -> ErrorDetails:
    """Of the alternatives of one field (a text, or a list of texts) the one that fits best: it says more than that
    the type is another."""
    field = problems[0]["loc"][:1]
    same = [problem for problem in problems if problem["loc"][:1] == field]
    return next((problem for problem in same if problem["type"] not in _ANOTHER_TYPE), same[0])

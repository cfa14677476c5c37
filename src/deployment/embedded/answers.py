"""Answers on the wire: one object or lines of them, given up when the caller leaves."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deployment.clock import Clock
from deployment.embedded.child import Refused
from deployment.embedded.translate import End, Event, Piece, Started
from deployment.errors import EngineCrashed, EngineTimeout, RamseyError

log = logging.getLogger(__name__)

Lines = AsyncGenerator[dict[str, Any], None]
Work = Callable[[], Lines]


def json_response(content: Any, status: int = 200) -> Response:
    """A JSON body."""
    return Response(orjson.dumps(content), status, media_type="application/json; charset=utf-8")


def error_response(error: Exception) -> Response:
    """Ollama's shape of an error, and its status."""
    return json_response({"error": error_text(error)}, error_status(error))


def error_text(error: Exception) -> str:
    """What the caller reads."""
    if not isinstance(error, RamseyError):
        return "internal error: see the engine's log"
    return error.message if error.hint is None else f"{error.message} {error.hint}"


def error_status(error: Exception) -> int:
    """Ollama answers 500 where its runner failed; llama.cpp's own refusals keep their status."""
    if not isinstance(error, RamseyError) or isinstance(error, (EngineCrashed, EngineTimeout)):
        return 500
    return error.status if isinstance(error, Refused) or error.status != 502 else 500


class Answer(Response):
    """Runs the work while it watches for the caller's leaving, which cancels it.

    `work` yields objects. With `stream` each goes out as a line; otherwise the last one is the answer.
    An error before the first object has its own status; a later one becomes a line.
    """

    def __init__(self, work: Work, *, stream: bool) -> None:
        super().__init__()
        self._work = work
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve it."""
        work = asyncio.create_task(self._serve(scope, receive, send))
        watch = asyncio.create_task(_caller_left(receive))
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            work.cancel()
            watch.cancel()
            await asyncio.gather(work, watch, return_exceptions=True)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = False
        last: dict[str, Any] = {}
        try:
            async with aclosing(self._work()) as lines:
                async for last in lines:
                    if self._stream:
                        if not began:
                            began = True
                            await send(_START)
                        await _send_line(send, last)
        except Exception as error:
            if not isinstance(error, RamseyError):
                log.exception("a request failed")
            if began:
                await _send_line(send, {"error": error_text(error)})
            else:
                await error_response(error)(scope, receive, send)
                return
        if began:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await json_response(last)(scope, receive, send)


_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/x-ndjson")],
}


async def _send_line(send: Send, content: dict[str, Any]) -> None:
    line = orjson.dumps(content) + b"\n"
    await send({"type": "http.response.body", "body": line, "more_body": True})


async def _caller_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Encoder:
    """Events → the objects of `/api/chat` or `/api/generate`."""

    def __init__(self, model: str, clock: Clock, *, chat: bool) -> None:
        self._model = model
        self._clock = clock
        self._chat = chat
        self._began = clock.monotonic()
        self._load_ns = 0

    async def lines(self, events: AsyncGenerator[Event, None]) -> Lines:
        """One object an event."""
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Started):
                    self._load_ns = event.load_ns
                elif isinstance(event, Piece):
                    yield self._object(event) | {"done": False}
                else:
                    yield self._object(Piece()) | self.ending(event)

    async def whole(self, events: AsyncGenerator[Event, None]) -> Lines:
        """One object for all of it."""
        pieces: list[Piece] = []
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Started):
                    self._load_ns = event.load_ns
                elif isinstance(event, Piece):
                    pieces.append(event)
                else:
                    joined = Piece(
                        "".join(each.text for each in pieces),
                        "".join(each.thinking for each in pieces),
                        tuple(call for each in pieces for call in each.tool_calls),
                        tuple(one for each in pieces for one in each.logprobs),
                    )
                    yield self._object(joined) | self.ending(event)

    def ending(self, end: End) -> dict[str, Any]:
        """The fields of a final object; zeros are left out, as Ollama does."""
        metrics = {
            "total_duration": int((self._clock.monotonic() - self._began) * 1e9),
            "load_duration": self._load_ns,
            "prompt_eval_count": end.prompt_tokens,
            "prompt_eval_duration": end.prompt_ns,
            "eval_count": end.tokens,
            "eval_duration": end.eval_ns,
        }
        return {"done": True, "done_reason": end.reason, **{key: value for key, value in metrics.items() if value}}

    def bare(self, reason: str) -> dict[str, Any]:
        """The answer to a request that only loads or unloads."""
        return self._object(Piece()) | {"done": True, "done_reason": reason}

    def _object(self, piece: Piece) -> dict[str, Any]:
        content: dict[str, Any] = {"model": self._model, "created_at": timestamp(self._clock)}
        extra: dict[str, Any] = {"thinking": piece.thinking} if piece.thinking else {}
        if piece.tool_calls:
            extra["tool_calls"] = list(piece.tool_calls)
        if self._chat:
            content["message"] = {"role": "assistant", "content": piece.text, **extra}
        else:
            content |= {"response": piece.text, **extra}
        if piece.logprobs:
            content["logprobs"] = list(piece.logprobs)
        return content


def timestamp(clock: Clock) -> str:
    """Now, as RFC 3339."""
    return clock.now().isoformat().replace("+00:00", "Z")

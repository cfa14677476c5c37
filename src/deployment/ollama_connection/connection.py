"""The connection to a node: one pool of sockets, requests that leave on it. No meaning of its own."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, BinaryIO

import aiohttp
import orjson

from deployment.errors import EngineError, EngineTimeout, InvalidRequest
from deployment.ollama_connection.answer import Answer, read_all, unavailable
from deployment.ollama_connection.timeouts import Timeouts, Watch
from deployment.ollama_wire import Event, error_of

_JSON = {"Content-Type": "application/json"}
_KEEP_ALIVE_S = 30.0
_MAX_UNARY_BYTES = 256 * 1024 * 1024
_MAX_ERROR_BYTES = 64 * 1024


class Connection:
    """The sockets to the node at `host`. Opens them at the first request; a given session stays open."""

    def __init__(self, host: str, timeouts: Timeouts, session: aiohttp.ClientSession | None) -> None:
        self.host = host
        self._timeouts = timeouts
        self._session = session
        self._owned = session is None

    async def close(self) -> None:
        """Close our sockets, those in use too. The next request opens new ones."""
        if self._owned and self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def events(
        self, path: str, body: Mapping[str, Any], limits: Timeouts | None = None
    ) -> AsyncGenerator[Event, None]:
        """POST `body`; the deltas of the answer, then exactly one Done. `aclose()` aborts the connection."""
        limits = limits or self._timeouts
        streamed = body.get("stream", True) is not False
        loop = asyncio.get_running_loop()
        watch = Watch(loop, limits.first_token if streamed else limits.total, limits)
        response = await self._send("POST", path, encode(body), watch.deadline, watch.late, limits.connect)
        answer = Answer(response, watch, streamed)
        try:
            watch.start(response)
            if response.status != 200:
                raise error_of(response.status, await read_all(response, _MAX_ERROR_BYTES))
            while not answer.ended:
                for event in await answer.read():
                    yield event
            await answer.drain()
        except (aiohttp.ClientError, OSError) as error:
            raise self.noted(watch.late() if watch.expired else answer.broken(error)) from None
        except EngineError as error:
            raise self.noted(error) from None
        finally:
            watch.stop()
            response.close()

    async def call(
        self, method: str, path: str, data: bytes | BinaryIO | None = None, within: float | None = None
    ) -> tuple[int, bytes]:
        """Any other request: the status and the whole body of its answer, `within` seconds or `total`."""
        limit = self._timeouts.total if within is None else within

        def late() -> EngineTimeout:
            return EngineTimeout(f"The engine did not answer within {limit:g} s.")

        deadline = asyncio.get_running_loop().time() + limit
        response = await self._send(method, path, data, deadline, late, self._timeouts.connect)
        try:
            async with asyncio.timeout_at(deadline):
                return response.status, await read_all(response, _MAX_UNARY_BYTES)
        except TimeoutError:
            raise self.noted(late()) from None
        except (aiohttp.ClientError, OSError) as error:
            raise self.noted(unavailable(error)) from None
        except EngineError as error:
            raise self.noted(error) from None
        finally:
            response.close()

    def noted(self, error: EngineError) -> EngineError:
        """Callers of the gateway read the message, and need not learn our addresses; logs show the note."""
        error.add_note(f"engine: {self.host}")
        return error

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            tracing = aiohttp.TraceConfig()
            tracing.on_connection_reuseconn.append(_mark_reused)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                trace_configs=[tracing],
                trust_env=False,
            )
        return self._session

    async def _send(
        self,
        method: str,
        path: str,
        data: bytes | BinaryIO | None,
        deadline: float,
        late: Callable[[], EngineTimeout],
        connect: float,
    ) -> aiohttp.ClientResponse:
        """Send a request and wait for the head of its answer.

        A node may close an idle connection just as we reuse it: then once more, on another.
        """
        again = isinstance(data, bytes)
        while True:
            use = _Use()
            try:
                async with asyncio.timeout_at(deadline):
                    return await self._opened().request(
                        method,
                        self.host + path,
                        data=data,
                        headers=_JSON if isinstance(data, bytes) else None,
                        timeout=aiohttp.ClientTimeout(total=None, connect=connect),
                        allow_redirects=False,
                        trace_request_ctx=use,
                    )
            except aiohttp.ConnectionTimeoutError:
                raise self.noted(EngineTimeout(f"No connection to the engine within {connect:g} s.")) from None
            except TimeoutError:
                raise self.noted(late()) from None
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if not (again and use.reused):
                    raise self.noted(unavailable(error)) from None
                again = False
            except aiohttp.ClientError as error:
                raise self.noted(unavailable(error)) from None


@dataclass(slots=True)
class _Use:
    """Whether a request went out on a connection that was used before."""

    reused: bool = False


async def _mark_reused(
    _session: aiohttp.ClientSession, context: SimpleNamespace, _params: aiohttp.TraceConnectionReuseconnParams
) -> None:
    if isinstance(context.trace_request_ctx, _Use):
        context.trace_request_ctx.reused = True


def encode(body: Mapping[str, Any]) -> bytes:
    """The bytes of a request's body."""
    try:
        return orjson.dumps(body)
    except TypeError as error:
        raise InvalidRequest(f"The request cannot be written as JSON: {error}.") from None

"""A fake node's socket: uvicorn's HTTP, with the connection's transport in the scope for faults below HTTP."""

import asyncio
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState


class _Protocol(HttpToolsProtocol):
    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["transport"] = self.transport  # type: ignore[typeddict-unknown-key]


class Server:
    """Listens on loopback; may close and listen again on the same port."""

    def __init__(self, app: Any) -> None:
        self._config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none")
        self._state = ServerState()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def listen(self, port: int = 0) -> None:
        if not self._config.loaded:
            self._config.load()

        def protocol() -> _Protocol:
            return _Protocol(config=self._config, server_state=self._state, app_state={})

        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(protocol, "127.0.0.1", port, backlog=2048)
        self.port = self._server.sockets[0].getsockname()[1]

    def connections(self) -> int:
        return len(self._state.connections)

    async def close(self) -> None:
        """Close the port, cut every connection, and wait for their tasks."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()
        mine = asyncio.current_task()
        tasks = [task for task in self._state.tasks if task is not mine]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=1.0)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

"""The application in this process, on a real socket."""

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn

from deployment.app import Services, create_app
from deployment.gateway.listener import server_config
from deployment.settings import Settings, load


@asynccontextmanager
async def serving(
    engine_url: str, *, own_listener: object = True, **overrides: Any
) -> AsyncIterator[tuple[str, Services]]:
    """A gateway before the engine at `engine_url`, which holds `ramsey-model:v1.1`; yields its URL and its parts.

    `own_listener=False`: under uvicorn as it comes, as by `uvicorn src.deployment.api:app`.
    """
    sections: dict[str, Any] = {
        "engine": {"host": engine_url, "launch": False},
        "model": {"modelfile": None, "release": "v1.1"},
        "log": {"level": "error"},
    }
    for name, values in overrides.items():
        sections[name] = {**sections[name], **values} if name in sections else values
    with tempfile.TemporaryDirectory() as own:
        async with _serving(load(**{"data_dir": Path(own), **sections}), own_listener) as served:
            yield served


@asynccontextmanager
async def _serving(settings: Settings, own_listener: object) -> AsyncIterator[tuple[str, Services]]:
    app = create_app(settings)
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:  # else asyncio leaves Nagle on: 40 ms an answer
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        plain = uvicorn.Config(app, lifespan="on", log_config=None)
        config = server_config(app, settings.server, lifespan="on") if own_listener else plain
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            while not server.started:
                assert not task.done(), "the server ended at its start"
                await asyncio.sleep(0.01)
            services: Services = app.state.services
            async with asyncio.timeout(30):
                while not services.traffic.table:
                    await asyncio.sleep(0.01)
            scheme = "https" if server.config.is_ssl else "http"
            yield f"{scheme}://127.0.0.1:{listener.getsockname()[1]}", services
        finally:
            server.should_exit = True
            await task

"""The node, put together: options → application → a server that drains."""

import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware

from deployment.clock import Clock, SystemClock
from deployment.embedded.child import new_client
from deployment.embedded.guard import Guard
from deployment.embedded.inference import Defaults, Inference
from deployment.embedded.models import Models
from deployment.embedded.options import parse_keep_alive
from deployment.embedded.routes import HANDLERS, Routes
from deployment.embedded.runners import Runners
from deployment.embedded.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NodeOptions:
    """How a node runs.

    `port` 0 takes a free one. `keep_alive` as in a request: seconds, a duration such as "5m", negative = for ever.
    `context_length` in tokens for one slot, where neither request nor model says otherwise. `threads` 0 = all
    cores but one; `gpu_layers` -1 = automatic. A runner that hangs in one step for `stall_s` seconds is ended: more
    than the slowest batch of a prompt takes.
    """

    host: str = "127.0.0.1"
    port: int = 11434
    models_dir: Path = Path("models")
    num_parallel: int = 4
    max_queue: int = 512
    max_loaded_models: int = 3
    context_length: int = 4096
    keep_alive: str | float = "5m"
    threads: int = 0
    gpu_layers: int = -1
    load_timeout_s: float = 300.0
    stall_s: float = 60.0
    drain_s: float = 30.0


def create_node(options: NodeOptions, clock: Clock | None = None) -> Starlette:
    """The application. Starts nothing and reads nothing until its lifespan begins."""
    clock = clock or SystemClock()
    store = Store(options.models_dir)
    models = Models(store)
    keep_alive = parse_keep_alive(options.keep_alive)
    runners = Runners(
        slots=options.num_parallel,
        max_queue=options.max_queue,
        max_loaded=options.max_loaded_models,
        load_timeout_s=options.load_timeout_s,
        stall_s=options.stall_s,
        keep_alive=300.0 if keep_alive is None else keep_alive,
        clock=clock,
    )
    defaults = Defaults(options.context_length, options.threads, options.gpu_layers)
    routes = Routes(store, models, runners, Inference(runners, defaults), clock)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        store.open()
        async with new_client() as client:
            runners.open(client)
            try:
                yield
            finally:
                await runners.close()

    guard = Middleware(Guard, listens_on=options.host)
    return Starlette(routes=routes.all(), middleware=[guard], exception_handlers=HANDLERS, lifespan=lifespan)


def serve(options: NodeOptions) -> None:
    """Serve until SIGTERM or SIGINT, then let requests in flight end (`drain_s` seconds at most) and return."""
    config = uvicorn.Config(
        create_node(options),
        host=options.host,
        port=options.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(options.drain_s)),
        log_config=None,
    )
    # uvicorn raises the signal again once it has drained; that shall not end the process in its own way.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _drained)
    uvicorn.Server(config).run()


def _drained(*_: object) -> None:
    log.info("stopped")

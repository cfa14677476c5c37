"""`ramsey engine`: the embedded engine alone, in the foreground."""

from pathlib import Path
from typing import Annotated

import typer

from deployment.cli.context import settings_of
from deployment.errors import StartupError


def engine(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on; by default engine.host's.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; by default engine.host's.", min=1, max=65535)] = None,
    models_dir: Annotated[Path | None, typer.Option(help="Model store, in Ollama's own layout.")] = None,
) -> None:
    """Run the embedded engine, which speaks Ollama's API. It has no authentication: keep it on loopback."""
    import logging
    import socket
    from urllib.parse import urlsplit

    from deployment.embedded import NodeOptions, serve

    settings = settings_of(context)
    parts = urlsplit(settings.engine.host)
    options = NodeOptions(
        host=host or ("127.0.0.1" if parts.hostname in {None, "localhost"} else str(parts.hostname)),
        port=port or parts.port or 11434,
        models_dir=models_dir or settings.models_dir,
        num_parallel=settings.engine.num_parallel,
        max_queue=settings.engine.max_queue,
        max_loaded_models=settings.engine.max_loaded_models,
        context_length=settings.engine.context_length,
        keep_alive=settings.model.keep_alive,
        threads=settings.engine.threads,
        gpu_layers=settings.engine.gpu_layers,
        load_timeout_s=settings.pool.load_timeout,
        stall_s=settings.engine.stall_timeout,
        drain_s=settings.server.drain_seconds,
    )
    try:
        socket.create_server((options.host, options.port)).close()
    except OSError as error:
        raise StartupError(
            f"Cannot listen on {options.host}:{options.port}: {error.strerror or error}.",
            hint="An engine may run there already; choose another --port.",
        ) from None
    logging.basicConfig(level=settings.log.level.value.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    typer.echo(f"Engine at http://{options.host}:{options.port}, models in {options.models_dir}. Ctrl-C stops it.")
    serve(options)

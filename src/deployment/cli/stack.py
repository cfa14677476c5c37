"""`ramsey up`, `down` and `status`."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployment.cli.context import Url, gateway_of, settings_of
from deployment.cli.output import Json, print_json
from deployment.errors import RamseyError, StartupError

if TYPE_CHECKING:
    from deployment.cli.claim import Running
    from deployment.settings import Settings

_POLL_S = 0.05
_STOP_SLACK_S = 30.0


def up(
    context: typer.Context,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Go on in the background.")] = False,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = None,
    logs: Annotated[bool, typer.Option("--logs", help="Show the gateway's log here, not in its file.")] = False,
    as_json: Json = False,
    detached: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Start an engine, deploy the model, start the gateway; Ctrl-C drains and stops them."""
    server: dict[str, Any] = {"host": host, "port": port}
    server = {name: value for name, value in server.items() if value is not None}
    settings = settings_of(context, **({"server": server} if server else {}))
    if detach:
        _detach(context.obj, settings, server, as_json)
        return
    import asyncio

    from deployment.cli.supervisor import Options, run

    options = Options(config=context.obj, server=server, logs=logs, as_json=as_json, detached=detached)
    raise typer.Exit(asyncio.run(run(settings, options)))


def down(context: typer.Context, as_json: Json = False) -> None:
    """Stop what `ramsey up` started here."""
    from deployment.cli.claim import running

    settings = settings_of(context)
    found = running(settings.data_dir)
    if found is None:
        _answer(as_json, {"stopped": False}, f"Nothing runs in {settings.data_dir}.")
        return
    began = time.perf_counter()
    os.kill(found.pid, signal.SIGTERM)  # the lock is held, so this pid is who wrote it
    limit = settings.server.drain_seconds + settings.server.drain_notice_seconds + _STOP_SLACK_S
    if not _wait(lambda: running(settings.data_dir) != found, limit):
        raise RamseyError(f"It has not stopped after {limit:g} s (pid {found.pid}).", hint=f"kill -9 {found.pid}")
    seconds = time.perf_counter() - began
    _answer(as_json, {"stopped": True, "pid": found.pid}, f"Stopped {found.url} (pid {found.pid}) in {seconds:.1f} s.")


def status(context: typer.Context, url: Url = None, as_json: Json = False) -> None:
    """Show what runs, and whether it can answer. Exit status 1 when it cannot."""
    from deployment.cli.claim import running

    found = None if url else running(settings_of(context).data_dir)
    gateway = gateway_of(context, url)
    try:
        code, health = gateway.status("/health")
        problem = None
    except RamseyError as error:
        code, health, problem = 0, {}, error.message
    if as_json:
        from dataclasses import asdict

        print_json({"up": asdict(found) if found else None, "url": gateway.url, "problem": problem, "health": health})
    else:
        _show_status(found, gateway.url, problem, health)
    raise typer.Exit(0 if code == 200 else 1)


def _show_status(found: "Running | None", url: str, problem: str | None, health: dict[str, Any]) -> None:
    from deployment.cli.output import console

    rows: list[tuple[str, bool, str]] = []
    if found:
        where = "in the background" if found.detached else "in a terminal"
        rows.append(("Up", True, f"{where}, pid {found.pid}, since {found.since[:19].replace('T', ' ')} UTC"))
    rows.append(("Gateway", problem is None, problem or url))
    for part in ("engine", "model"):
        if told := health.get(part):
            text = (
                told.get("reason")
                or told.get("release")
                or f"{told.get('healthy')} of {told.get('nodes')} nodes healthy"
            )
            rows.append((part.capitalize(), bool(told.get("ok")), str(text)))
    for name, ok, text in rows:
        mark = "[green]ok[/green]" if ok else "[red]no[/red]"
        console().print(f"  [bold]{name:<8}[/bold] {mark}  {text}")


def _detach(config: Path | None, settings: "Settings", server: dict[str, Any], as_json: bool) -> None:
    """Start `ramsey up` in a session of its own, and show what it says until it is ready."""
    from deployment.cli.claim import already_running, announced, running
    from deployment.engines import open_log
    from deployment.settings import environment

    if other := running(settings.data_dir):
        raise already_running(other)
    log = settings.data_dir / "logs" / "up.log"
    command = [
        sys.executable,
        "-P",
        "-m",
        "deployment",
        *(["--config", str(config)] if config else []),
        "up",
        "--detached",
    ]
    command += [f"--{name}={value}" for name, value in server.items()]
    package = str(Path(__file__).parents[2])
    variables = environment()
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, (package, variables.get("PYTHONPATH"))))
    output = open_log(log, anew=True)
    with output, log.open(encoding="utf-8", errors="replace") as said:
        child = subprocess.Popen(  # noqa: S603 - ourselves
            command, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )

        def told() -> bool:
            text = said.read()
            if text and not as_json:
                typer.echo(text, nl=False)
            here = announced(settings.data_dir)
            return child.poll() is not None or bool(here and here.pid == child.pid and here.url)

        _wait(told, float("inf"))
        told()
        if child.poll() is not None:
            if as_json:
                raise StartupError("It could not be started.", hint=f"See {log}.")
            raise typer.Exit(child.returncode if child.returncode > 0 else 1)
    if as_json:
        from dataclasses import asdict

        here = announced(settings.data_dir)
        print_json(asdict(here) if here else {})


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_S)
    return True


def _answer(as_json: bool, value: dict[str, Any], text: str) -> None:
    if as_json:
        print_json(value)
    else:
        typer.echo(text)

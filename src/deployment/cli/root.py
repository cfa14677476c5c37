"""The verbs, and the options that stand before them."""

from pathlib import Path
from typing import Annotated

import typer

from deployment import __version__
from deployment.cli import (
    access,
    audit,
    chat,
    config,
    doctor,
    engine,
    generate,
    keys,
    models,
    nodes,
    privacy,
    releases,
    rollouts,
    sessions,
    stack,
    traffic,
)
from deployment.cli.output import Json, print_json

app = typer.Typer(
    help="Serve a model that you trained, in production, on Ollama.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ramsey {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    config_file: Annotated[
        Path | None, typer.Option("--config", help="Settings file; by default ramsey.toml.", metavar="FILE")
    ] = None,
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Keep them for the verbs."""
    context.obj = config_file


app.command()(stack.up)
app.command()(stack.down)
app.command()(stack.status)
app.command()(generate.generate)
app.command()(chat.chat)
app.add_typer(models.app, name="models")
app.command()(rollouts.deploy)
app.command()(rollouts.rollback)
app.add_typer(rollouts.app, name="rollout")
app.add_typer(releases.app, name="release")
app.command("releases")(releases.list_releases)
app.command()(releases.evaluate)
app.command()(engine.engine)
app.command()(doctor.doctor)
app.add_typer(nodes.app, name="nodes")
app.add_typer(traffic.app, name="traffic")
app.add_typer(config.app, name="config")
app.add_typer(keys.app, name="keys")
app.add_typer(sessions.app, name="sessions")
app.add_typer(access.tenants, name="tenants")
app.add_typer(access.roles, name="roles")
app.add_typer(access.limits, name="limits")
app.add_typer(audit.app, name="audit")
app.add_typer(privacy.app, name="privacy")


@app.command()
def version(as_json: Json = False) -> None:
    """Print the version."""
    if as_json:
        print_json({"version": __version__})
    else:
        typer.echo(f"ramsey {__version__}")

"""`ramsey models`: what is served, and what the engine holds."""

from typing import Annotated

import typer

from deployment.cli.context import Url, gateway_of, settings_of
from deployment.cli.output import Json, console, print_json
from deployment.errors import ConfigurationError, RamseyError

app = typer.Typer(help="Show the models, or delete a release.", invoke_without_command=True, rich_markup_mode=None)


@app.callback()
def models(context: typer.Context, url: Url = None, as_json: Json = False) -> None:
    """Show the models that the gateway serves, and their releases."""
    if context.invoked_subcommand:
        return
    served = gateway_of(context, url).get("/models")
    if as_json:
        print_json(served)
        return
    for row in served.get("models", []):
        default = "  [dim](default)[/dim]" if row["model"] == served.get("default") else ""
        console().print(f"[bold]{row['model']}[/bold]{default}")
        for release in row["releases"]:
            mark = "[green]serves[/green]" if release == row["release"] else "      "
            digest = f"[dim]{row['digest'][:12]}[/dim]" if release == row["release"] and row.get("digest") else ""
            console().print(f"  {mark}  {release}  {digest}".rstrip())
    if not served.get("models"):
        typer.echo("Nothing is served yet.")


@app.command()
def delete(
    context: typer.Context,
    release: Annotated[str, typer.Argument(help="The release, for instance ramsey-model:v1.0.")],
    force: Annotated[bool, typer.Option("--force", help="Also when it is served just now.")] = False,
) -> None:
    """Delete a release from the engine."""
    import asyncio

    settings = settings_of(context)
    if ":" not in release:
        raise ConfigurationError(f"{release} is no release.", hint=f"Name its tag: {release}:v1.0.")
    if not force and release in _served(context):
        raise RamseyError(f"{release} is served just now.", hint="Deploy another first, or use --force.")
    urls = [node.url for node in settings.pool.nodes] or [settings.engine.host]
    asyncio.run(_delete(release, urls))
    typer.echo(f"Deleted {release}.")


def _served(context: typer.Context) -> set[str]:
    try:
        return {row["release"] for row in gateway_of(context, None).get("/models").get("models", [])}
    except RamseyError:
        return set()  # no gateway, no traffic


async def _delete(release: str, urls: list[str]) -> None:
    from deployment.ollama_client import OllamaClient

    for url in urls:
        async with OllamaClient(url) as client:
            await client.delete(release)

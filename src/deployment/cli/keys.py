"""`ramsey keys`: API keys."""

from typing import Annotated

import typer

from deployment.cli.output import Json, print_json

app = typer.Typer(help="Make API keys.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def keys() -> None:
    """Make API keys."""


@app.command()
def create(
    name: Annotated[str, typer.Option(help="Who holds the key; appears in logs.")],
    tenant: Annotated[str, typer.Option(help="The tenant that the key belongs to.")] = "default",
    as_json: Json = False,
) -> None:
    """Make a key, and show it this once."""
    from pydantic import ValidationError

    from deployment.access import generate_key
    from deployment.errors import ConfigurationError
    from deployment.settings import ApiKey

    made = generate_key()
    try:
        ApiKey(name=name, sha256=made.sha256, tenant=tenant)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigurationError(f"--{problem['loc'][0]}: {problem['msg']}.") from None
    if as_json:
        print_json({"key": made.key, "name": name, "tenant": tenant, "sha256": made.sha256})
        return
    typer.echo("The key, shown only now:\n")
    typer.secho(f"  {made.key}\n", bold=True)
    typer.echo("Ramsey knows its SHA-256 alone. Add to ramsey.toml, and start again:\n")
    typer.echo(f'  [[access.keys]]\n  name = {_quoted(name)}\n  tenant = {_quoted(tenant)}\n  sha256 = "{made.sha256}"')


def _quoted(text: str) -> str:
    """As TOML writes it; a JSON string is one."""
    import json

    return json.dumps(text, ensure_ascii=False)

"""`ramsey generate`."""

import sys
from typing import Annotated, Any

import typer

from deployment.cli.context import Url, gateway_of
from deployment.cli.output import Json, print_json
from deployment.errors import ConfigurationError


def generate(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help="What to answer; - reads it from standard input.")],
    model: Annotated[str | None, typer.Option(help="Model or release; by default the gateway's.")] = None,
    system: Annotated[str | None, typer.Option(help="System prompt, in the place of the release's own.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Most tokens of the answer.", min=1)] = None,
    temperature: Annotated[float | None, typer.Option(help="0 always takes the likeliest token.", min=0)] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    stream: Annotated[bool, typer.Option(help="Print the answer as it comes.")] = True,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Answer one prompt."""
    prompt = sys.stdin.read() if prompt == "-" else prompt
    if not prompt.strip():
        raise ConfigurationError("The prompt is empty.", hint="ramsey generate 'What is R(3,3)?'")
    wishes: dict[str, Any] = {
        "prompt": prompt,
        "model": model,
        "system": system,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
    }
    body = {name: value for name, value in wishes.items() if value is not None}
    gateway = gateway_of(context, url)
    if as_json or not stream:
        answer = gateway.post("/generate", body)
        print_json(answer) if as_json else typer.echo(answer.get("response", ""))
        return
    for piece in gateway.stream("/generate", body):
        typer.echo(piece.get("response", ""), nl=False)
        sys.stdout.flush()
    typer.echo()

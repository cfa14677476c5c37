"""`ramsey traffic`: which releases answer for a model, and how much of it."""

from typing import Annotated, Any

import typer

from deployment.cli.admin import plain, segment, shown_time
from deployment.cli.context import Url, gateway_of, settings_of
from deployment.cli.output import Json, console, print_json, table
from deployment.errors import ConfigurationError

app = typer.Typer(help="Show and change which releases answer.", no_args_is_help=True, rich_markup_mode=None)

_KINDS = ("header", "key", "tenant")
Model = Annotated[str | None, typer.Option("--model", help="By default the one of the settings.")]


@app.command()
def show(context: typer.Context, url: Url = None, as_json: Json = False) -> None:
    """Show every model's releases with their weights, pins and shadow, and the gateways that have them."""
    told = gateway_of(context, url).get("/admin/traffic")
    if as_json:
        print_json(told)
        return
    for split in told["models"]:
        _print(split)
    if not told["models"]:
        typer.echo("No release has traffic yet.")
    behind = [each["id"] for each in told["gateways"] if each["traffic_version"] < told["version"]]
    alive = len(told["gateways"])
    typer.echo(f"{alive} gateway{'' if alive == 1 else 's'}; the table has version {told['version']}.")
    if behind:
        typer.echo(f"Not there yet: {', '.join(behind)}.")


@app.command("set")
def set_(
    context: typer.Context,
    weights: Annotated[
        list[str] | None,
        typer.Argument(
            help="RELEASE=PERCENT, together 100, for instance v1.0=90 v1.1=10; 0 keeps one warm. By default they stay.",
            metavar="RELEASE=PERCENT",
            show_default=False,
        ),
    ] = None,
    sticky: Annotated[str | None, typer.Option(help="Who keeps a release: none, session or key.")] = None,
    pin: Annotated[
        list[str] | None,
        typer.Option(help="header:VALUE=RELEASE, key:ID=RELEASE or tenant:ID=RELEASE; repeatable."),
    ] = None,
    unpin: Annotated[list[str] | None, typer.Option(help="KIND:VALUE of a pin to take away; repeatable.")] = None,
    shadow: Annotated[
        str | None, typer.Option(help="RELEASE=PERCENT of the requests to mirror to it; none ends that.")
    ] = None,
    reason: Annotated[str, typer.Option(help="For the record.")] = "",
    model: Model = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Change a model's traffic. What is not named stays as it is."""
    gateway = gateway_of(context, url)
    model = model or settings_of(context).model.name
    path = f"/admin/traffic/{segment(model)}"
    now = gateway.get(path)
    body = {
        "version": now["version"],
        "shares": _shares(model, weights or [], now["shares"]),
        "pins": _pins(model, now["pins"], pin or [], unpin or []),
        "sticky": sticky or now["sticky"],
        "shadow": _shadow(model, shadow) if shadow is not None else now["shadow"],
        "reason": reason,
    }
    split = gateway.put(path, body)
    if as_json:
        print_json(split)
    else:
        _print(split)
        typer.echo("Every gateway has it within a second.")


def _shares(model: str, given: list[str], now: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not given:
        return now
    nodes = {share["release"]: share["nodes"] for share in now}
    shares = [_part(model, each) for each in given]
    return [{"release": name, "weight": part, "nodes": nodes.get(name, {})} for name, part in shares]


def _pins(model: str, now: list[dict[str, Any]], added: list[str], gone: list[str]) -> list[dict[str, Any]]:
    pins = {(each["kind"], each["value"]): each["release"] for each in now}
    for text in gone:
        if pins.pop(_who(text, text), None) is None:
            raise ConfigurationError(f"--unpin {text}: there is no such pin.", hint="`ramsey traffic show` lists them.")
    for text in added:
        who, equals, release = text.rpartition("=")
        if not (equals and release):
            raise ConfigurationError(f"--pin {text}: write KIND:VALUE=RELEASE, for instance tenant:acme=v1.1.")
        pins[_who(who, text)] = _named(model, release)
    return [{"kind": kind, "value": value, "release": release} for (kind, value), release in pins.items()]


def _who(text: str, whole: str) -> tuple[str, str]:
    kind, colon, value = text.partition(":")
    if kind not in _KINDS or not (colon and value):
        raise ConfigurationError(f"{whole}: a pin begins with {', '.join(_KINDS[:-1])} or {_KINDS[-1]}, and a colon.")
    return kind, value


def _shadow(model: str, text: str) -> dict[str, Any] | None:
    if text == "none":
        return None
    release, share = _part(model, text)
    return {"release": release, "share": share}


def _part(model: str, text: str) -> tuple[str, float]:
    """RELEASE=PERCENT as a release's whole name and a part of 1."""
    release, _, percent = text.partition("=")
    try:
        part = float(percent.removesuffix("%")) / 100
    except ValueError:
        part = -1.0
    if not release or not 0 <= part <= 1:
        raise ConfigurationError(f"{text}: write RELEASE=PERCENT, for instance v1.1=10.")
    return _named(model, release), round(part, 9)


def _named(model: str, release: str) -> str:
    return release.lower() if ":" in release else f"{model}:{release.lower()}"


def _print(split: dict[str, Any]) -> None:
    by = "the settings" if split["set_by"] == "settings" else split["set_by"]
    why = f": {plain(split['reason'])}" if split["reason"] else ""
    console().print(f"[bold]{split['model']}[/bold]  [dim]set {shown_time(split['set_at'])} by {plain(by)}{why}[/dim]")
    rows = table("release", "traffic", "nodes", "")
    for share in split["shares"]:
        labels = ", ".join(f"{key}={value}" for key, value in share["nodes"].items()) or "all"
        mark = "candidate" if share["release"] == split["candidate"] else ""
        rows.add_row(share["release"], f"{share['weight'] * 100:g} %", plain(labels), mark)
    console().print(rows)
    for pin in split["pins"]:
        console().print(f"  pinned: {pin['kind']} {plain(pin['value'])} to {pin['release']}")
    if split["sticky"] != "none":
        typer.echo(f"  sticky: by {split['sticky']}")
    if split["shadow"]:
        typer.echo(f"  shadow: {split['shadow']['share'] * 100:g} % also to {split['shadow']['release']}")
    if split["rollout"]:
        typer.echo(f"  rollout: {split['rollout']}")

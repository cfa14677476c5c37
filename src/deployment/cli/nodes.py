"""`ramsey nodes`: the nodes of a running gateway's pool."""

from typing import Annotated, Any
from urllib.parse import quote

import typer

from deployment.cli.context import Url, gateway_of
from deployment.cli.output import Json, console, print_json, table
from deployment.errors import ConfigurationError

app = typer.Typer(help="List, add, drain and remove nodes.", no_args_is_help=True, rich_markup_mode=None)

_COLOURS = {"healthy": "green", "unknown": "yellow", "draining": "yellow", "unhealthy": "red", "open": "red"}
Name = Annotated[str, typer.Argument(help="The node's name.")]


@app.command("list")
def listed(context: typer.Context, url: Url = None, as_json: Json = False) -> None:
    """List the nodes: state, work, version."""
    told = gateway_of(context, url).get("/admin/nodes")
    if as_json:
        print_json(told)
        return
    rows = table("node", "state", "in flight", "engine", "address")
    for node in told["nodes"]:
        colour = _COLOURS.get(node["state"], "white")
        rows.add_row(
            node["name"],
            f"[{colour}]{node['state']}[/{colour}]",
            f"{node['in_flight']} of {node['share']}",
            node["version"] or "?",
            node["url"],
        )
    console().print(rows)
    for node in told["nodes"]:
        if node["problem"]:
            console().print(f"[red]{node['name']}[/red]: {node['problem']}")


@app.command()
def show(context: typer.Context, name: Name, url: Url = None, as_json: Json = False) -> None:
    """Show a node and the releases on it."""
    node = gateway_of(context, url).get(f"/admin/nodes/{quote(name, safe='')}")
    if as_json:
        print_json(node)
        return
    _print(node)
    for release in node["releases"]:
        place = "loaded" if release["loaded"] else "present" if release["present"] else "not there"
        told = [place, f"{release['in_flight']} in flight"]
        told += [f"first token {release['expected_ttft_s'] * 1e3:.0f} ms"] if release["expected_ttft_s"] else []
        told += [f"answer {release['service_s']:.2f} s"] if release["service_s"] else []
        typer.echo(f"  {release['release']}: {', '.join(told)}")


@app.command()
def add(
    context: typer.Context,
    name: Name,
    address: Annotated[str, typer.Argument(help="Where it answers, for instance http://10.0.0.5:11434.")],
    slots: Annotated[int, typer.Option(help="Its OLLAMA_NUM_PARALLEL.", min=1, max=256)],
    weight: Annotated[float, typer.Option(help="Its share, in the policy weighted.")] = 1.0,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, for instance region=eu; repeatable.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Take a node in; it serves once its first check went well."""
    body = {"name": name, "url": address, "slots": slots, "weight": weight, "labels": _labels(label or [])}
    node = gateway_of(context, url).post("/admin/nodes", body)
    if as_json:
        print_json(node)
    else:
        typer.echo(f"Added {node['name']}. `ramsey nodes show {node['name']}` shows how it does.")


@app.command()
def drain(
    context: typer.Context,
    name: Name,
    undo: Annotated[bool, typer.Option("--undo", help="Let it take work again.")] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait until nothing runs on it.", min=0)] = 60.0,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Give a node no new work, and wait until its streams have ended."""
    body = {"draining": not undo, "wait_seconds": 0 if undo else wait}
    gateway = gateway_of(context, url)
    node = gateway.post(f"/admin/nodes/{quote(name, safe='')}/drain", body)
    if as_json:
        print_json(node)
    elif undo:
        typer.echo(f"{name} takes work again.")
    elif node["in_flight"]:
        typer.echo(f"{name} takes no new work; {node['in_flight']} requests still run on it.")
    else:
        typer.echo(f"{name} takes no new work, and nothing runs on it: it can be stopped or removed.")


@app.command()
def remove(context: typer.Context, name: Name, url: Url = None) -> None:
    """Take a node out. What runs on it is cut: drain it first."""
    gateway_of(context, url).delete(f"/admin/nodes/{quote(name, safe='')}")
    typer.echo(f"Removed {name}.")


def _labels(given: list[str]) -> dict[str, str]:
    labels = {}
    for each in given:
        key, equals, value = each.partition("=")
        if not (key and equals):
            raise ConfigurationError(f"--label {each}: write KEY=VALUE.")
        labels[key] = value
    return labels


def _print(node: dict[str, Any]) -> None:
    labels = ", ".join(f"{key}={value}" for key, value in node["labels"].items())
    for what, value in (
        ("state", node["state"]),
        ("address", node["url"]),
        ("engine", node["version"]),
        ("in flight", f"{node['in_flight']} of {node['share']} (slots: {node['slots']})"),
        ("labels", labels),
        ("added by", node["source"]),
        ("checked", node["checked_at"]),
        ("problem", node["problem"]),
    ):
        if value:
            console().print(f"[dim]{what:<10}[/dim]{value}")

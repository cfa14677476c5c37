"""`ramsey keys`: API keys."""

from typing import Annotated, Any

import typer

from deployment.cli.admin import LocalAdmin, Url, admin_of, all_pages, moment, plain, segment, shown_time, span
from deployment.cli.output import Json, console, print_json, table
from deployment.errors import ConfigurationError

app = typer.Typer(help="Make, list, rotate and revoke API keys.", no_args_is_help=True, rich_markup_mode=None)

_COLOURS = {"active": "green", "expired": "yellow", "revoked": "red"}
PublicId = Annotated[str, typer.Argument(help="The key's public id, as `ramsey keys list` shows it.", metavar="ID")]


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Option(help="Who holds the key; appears in logs.")],
    tenant: Annotated[str | None, typer.Option(help="The tenant that it belongs to; by default your own.")] = None,
    role: Annotated[list[str] | None, typer.Option(help="What it may do; repeatable. By default user.")] = None,
    scope: Annotated[list[str] | None, typer.Option(help="Narrows the roles; repeatable.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="A model that it may ask; repeatable.")] = None,
    network: Annotated[list[str] | None, typer.Option(help="A network that it may call from; repeatable.")] = None,
    expires: Annotated[str | None, typer.Option(help="When it ends: 90d, or 2027-01-31.")] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Keep nothing; print what to put into ramsey.toml.")
    ] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Make a key, and show it this once."""
    if print_config:
        if scope or model or network or expires or url:
            raise ConfigurationError("A key in the settings has a name, a tenant and roles alone.")
        _for_the_settings(name, tenant or "default", tuple(role or ("user",)), as_json)
        return
    from deployment.clock import SystemClock

    body: dict[str, Any] = {"name": name, "tenant": tenant}
    lists = {"roles": role, "scopes": scope, "models": model, "networks": network}
    body |= {what: given for what, given in lists.items() if given}
    if expires:
        body["expires_at"] = moment(expires, SystemClock().now(), "--expires").isoformat()
    admin = admin_of(context, url)
    made = admin.post("/admin/keys", body)
    if as_json:
        print_json(made)
        return
    _show_once(made["key"])
    where = "this machine's database" if isinstance(admin, LocalAdmin) else "the gateway"
    typer.echo(f"It works at once. Kept in {where}, by its SHA-256 alone:\n")
    _print(made)


@app.command("list")
def listed(
    context: typer.Context,
    tenant: Annotated[str | None, typer.Option(help="Of this tenant alone.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List the stored keys, revoked and expired ones included."""
    keys = all_pages(admin_of(context, url), "/admin/keys", tenant)
    if as_json:
        print_json(keys)
        return
    if not keys:
        typer.echo("No key is stored. Make one: ramsey keys create --name NAME")
        return
    rows = table("id", "name", "tenant", "roles", "state", "last used (UTC)")
    for key in keys:
        rows.add_row(key["public_id"], plain(key["name"]), key["tenant"], ", ".join(key["roles"]), *_times(key))
    console().print(rows)


@app.command()
def show(context: typer.Context, public_id: PublicId, url: Url = None, as_json: Json = False) -> None:
    """Show a key: what it may do, and when it was used; the key itself nobody can see again."""
    key = admin_of(context, url).get(f"/admin/keys/{segment(public_id)}")
    if as_json:
        print_json(key)
    else:
        _print(key)


@app.command()
def rotate(
    context: typer.Context,
    public_id: PublicId,
    overlap: Annotated[str, typer.Option(help="How long the old key goes on, up to 90d.")] = "1d",
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Make a key's successor, and show it this once; both work until the overlap ends."""
    body = {"overlap_seconds": span(overlap, "--overlap").total_seconds()}
    made = admin_of(context, url).post(f"/admin/keys/{segment(public_id)}/rotate", body)
    if as_json:
        print_json(made)
        return
    _show_once(made["key"])
    typer.echo(f"It takes the place of {public_id}, which goes on for {overlap}:\n")
    _print(made)


@app.command()
def revoke(context: typer.Context, public_id: PublicId, url: Url = None, as_json: Json = False) -> None:
    """End a key, everywhere within a second."""
    key = admin_of(context, url).post(f"/admin/keys/{segment(public_id)}/revoke", {})
    if as_json:
        print_json(key)
    else:
        typer.echo(f"Revoked {public_id} ({key['name']}).")


def _for_the_settings(name: str, tenant: str, roles: tuple[str, ...], as_json: bool) -> None:
    """A key that the settings hold: for a gateway whose database is not within reach."""
    from pydantic import ValidationError

    from deployment.access import generate_key
    from deployment.settings import ApiKey

    made = generate_key()
    try:
        entry = ApiKey.model_validate({"name": name, "sha256": made.sha256, "tenant": tenant, "roles": roles})
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigurationError(f"--{str(problem['loc'][0]).removesuffix('s')}: {problem['msg']}.") from None
    if as_json:
        print_json({"key": made.key, **entry.model_dump(mode="json")})
        return
    _show_once(made.key)
    typer.echo("Ramsey knows its SHA-256 alone. Add to ramsey.toml, and start again:\n")
    typer.echo(f'  [[access.keys]]\n  name = {_quoted(name)}\n  tenant = {_quoted(tenant)}\n  sha256 = "{made.sha256}"')
    if roles != ("user",):
        typer.echo(f"  roles = [{', '.join(_quoted(role) for role in roles)}]")


def _show_once(key: str) -> None:
    typer.echo("The key, shown only now:\n")
    typer.secho(f"  {key}\n", bold=True)


def _print(key: dict[str, Any]) -> None:
    for what, value in (
        ("id", key["public_id"]),
        ("name", key["name"]),
        ("tenant", key["tenant"]),
        ("state", key["state"]),
        ("roles", ", ".join(key["roles"])),
        ("scopes", ", ".join(key["scopes"])),
        ("models", ", ".join(key["models"])),
        ("networks", ", ".join(key["networks"])),
        ("in logs", key["key_hash"]),
        ("made", f"{shown_time(key['created_at'])} UTC by {key['created_by']}"),
        ("expires", key["expires_at"] and f"{shown_time(key['expires_at'])} UTC"),
        ("revoked", key["revoked_at"] and f"{shown_time(key['revoked_at'])} UTC"),
        ("successor", key["replaced_by"]),
        ("last used", key["last_used_at"] and f"{shown_time(key['last_used_at'])} UTC"),
    ):
        if value:
            console().print(f"[dim]{what:<10}[/dim]{plain(value)}")


def _times(key: dict[str, Any]) -> tuple[str, str]:
    state = key["state"]
    if state == "active" and key["expires_at"]:
        state = f"active until {key['expires_at'][:10]}"
    return f"[{_COLOURS[key['state']]}]{state}[/]", shown_time(key["last_used_at"])


def _quoted(text: str) -> str:
    """As TOML writes it; a JSON string is one."""
    import json

    return json.dumps(text, ensure_ascii=False)

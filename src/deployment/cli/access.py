"""`ramsey tenants`, `ramsey roles`, `ramsey limits`."""

import math
from typing import Annotated, Any

import typer

from deployment.cli.admin import Url, admin_of, plain, segment, shown_time
from deployment.cli.output import Json, console, print_json, table
from deployment.errors import ConfigurationError

tenants = typer.Typer(help="Make, list, disable and enable tenants.", no_args_is_help=True, rich_markup_mode=None)
roles = typer.Typer(help="List, set and delete roles.", no_args_is_help=True, rich_markup_mode=None)
limits = typer.Typer(help="Limits of single keys, tenants and models.", no_args_is_help=True, rich_markup_mode=None)

TenantId = Annotated[str, typer.Argument(help="The tenant's id.", metavar="ID")]
RoleName = Annotated[str, typer.Argument(help="The role's name.", metavar="NAME")]
Scope = Annotated[str, typer.Argument(help="key, tenant or model.")]
Subject = Annotated[str, typer.Argument(help="The key's public id, the tenant's id, or the model's name.")]


@tenants.command("list")
def list_tenants(context: typer.Context, url: Url = None, as_json: Json = False) -> None:
    """List the tenants that you may see."""
    found = admin_of(context, url).items("/admin/tenants")
    if as_json:
        print_json(found)
        return
    rows = table("id", "name", "made (UTC)", "state")
    for tenant in found:
        state = "[red]disabled[/red]" if tenant["disabled_at"] else "[green]enabled[/green]"
        rows.add_row(tenant["id"], plain(tenant["name"]), shown_time(tenant["created_at"]), state)
    console().print(rows)


@tenants.command("create")
def create_tenant(
    context: typer.Context,
    tenant_id: TenantId,
    name: Annotated[str | None, typer.Option(help="For people; by default the id.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Make a tenant."""
    made = admin_of(context, url).post("/admin/tenants", {"id": tenant_id, "name": name or tenant_id})
    _answer(made, f"Made the tenant {tenant_id}.", as_json)


@tenants.command("disable")
def disable_tenant(context: typer.Context, tenant_id: TenantId, url: Url = None) -> None:
    """Keep all of a tenant's keys out."""
    admin_of(context, url).post(f"/admin/tenants/{segment(tenant_id)}/disable", {})
    typer.echo(f"The keys of {tenant_id} are kept out.")


@tenants.command("enable")
def enable_tenant(context: typer.Context, tenant_id: TenantId, url: Url = None) -> None:
    """Let a tenant's keys in again."""
    admin_of(context, url).post(f"/admin/tenants/{segment(tenant_id)}/enable", {})
    typer.echo(f"The keys of {tenant_id} are let in again.")


@roles.command("list")
def list_roles(context: typer.Context, url: Url = None, as_json: Json = False) -> None:
    """List built-in and own roles, and what they allow."""
    found = admin_of(context, url).items("/admin/roles")
    if as_json:
        print_json(found)
        return
    for role in found:
        kind = " [dim](built in)[/dim]" if role["built_in"] else ""
        console().print(f"[bold]{role['name']}[/bold]{kind}: {', '.join(role['permissions'])}")


@roles.command("set")
def set_role(
    context: typer.Context,
    name: RoleName,
    permission: Annotated[list[str], typer.Option(help="What it allows; repeatable.")],
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Make a role, or change what it allows."""
    role = admin_of(context, url).put(f"/admin/roles/{segment(name)}", {"permissions": permission})
    _answer(role, f"{name} allows {', '.join(role['permissions'])}.", as_json)


@roles.command("delete")
def delete_role(context: typer.Context, name: RoleName, url: Url = None) -> None:
    """Remove an own role; keys that have it lose what it allowed."""
    admin_of(context, url).delete(f"/admin/roles/{segment(name)}")
    typer.echo(f"Deleted the role {name}.")


@limits.command("list")
def list_limits(context: typer.Context, url: Url = None, as_json: Json = False) -> None:
    """List the keys, tenants and models that have limits of their own."""
    found = admin_of(context, url).items("/admin/limits")
    if as_json:
        print_json(found)
    for one in () if as_json else found:
        typer.echo(f"{one['scope']} {one['subject']}: {_told(one['limits'])}")
    if not found and not as_json:
        typer.echo("None: the settings' limits hold for everybody.")


@limits.command("set")
def set_limits(
    context: typer.Context,
    scope: Scope,
    subject: Subject,
    limit: Annotated[list[str], typer.Option(help="NAME=NUMBER, for instance requests_per_minute=60; repeatable.")],
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Give one of them limits of its own, in place of all of the settings'; what is left out is not limited."""
    from deployment.settings import LimitSet

    pairs = [_pair(each) for each in limit]
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ConfigurationError("A limit is given twice.", hint="What is left out is not limited; give each once.")
    if unknown := [name for name in values if name not in LimitSet.model_fields]:
        raise ConfigurationError(
            f"There is no limit {unknown[0]}.", hint=f"There are {', '.join(LimitSet.model_fields)}."
        )
    stored = admin_of(context, url).put(f"/admin/limits/{segment(scope)}/{segment(subject)}", values)
    _answer(stored, f"{scope} {subject}: {_told(stored['limits'])}", as_json)


@limits.command("delete")
def delete_limits(context: typer.Context, scope: Scope, subject: Subject, url: Url = None) -> None:
    """Go back to the settings' limits."""
    admin_of(context, url).delete(f"/admin/limits/{segment(scope)}/{segment(subject)}")
    typer.echo(f"{scope} {subject} has the settings' limits again.")


def _pair(text: str) -> tuple[str, float | int]:
    name, _, value = text.partition("=")
    try:
        number = int(value) if value.isdecimal() else float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigurationError(f"--limit {text[:80]}: write NAME=NUMBER.")
    return name, number


def _told(given: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in given.items() if value is not None) or "not limited"


def _answer(value: dict[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        print_json(value)
    else:
        typer.echo(text)

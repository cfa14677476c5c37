"""`ramsey privacy`: what is kept of conversations, and a person's right to see it or have it erased."""

import json
from typing import Annotated, Any

import typer

from deployment.cli.admin import Url, admin_of, plain, segment, shown_time
from deployment.cli.output import Json, console, print_json, table
from deployment.errors import ConfigurationError

app = typer.Typer(
    help="Keep conversations for tenants who ask; show or erase one person's.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Subject = Annotated[
    str, typer.Argument(help="What callers say in X-Ramsey-Subject or OpenAI's `user`, else the key's id.")
]
Tenant = Annotated[str | None, typer.Option("--tenant", help="The person's tenant; by default your own.")]


@app.command("show")
def show(context: typer.Context, url: Url = None, as_json: Json = False) -> None:
    """Show for which tenants conversations are kept."""
    found = admin_of(context, url).items("/admin/privacy/tenants")
    if as_json:
        print_json(found)
        return
    if not found:
        typer.echo("No tenant asked to keep conversations: nothing is kept.")
        return
    rows = table("tenant", "kept", "days", "personal data", "set (UTC)", "by")
    for wish in found:
        kept = "yes" if wish["keep"] else "no"
        data = "replaced" if wish["redact"] else "as it is"
        rows.add_row(wish["tenant"], kept, str(wish["days"]), data, shown_time(wish["set_at"]), plain(wish["set_by"]))
    console().print(rows)


@app.command("keep")
def keep(
    context: typer.Context,
    tenant: Annotated[str, typer.Argument(help="The tenant's id.")],
    off: Annotated[bool, typer.Option("--off", help="Keep no more; what was kept stays until it expires.")] = False,
    days: Annotated[int, typer.Option(help="How long a conversation is kept.", min=1, max=3650)] = 30,
    as_it_is: Annotated[bool, typer.Option("--as-it-is", help="Do not replace personal data.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Keep a tenant's conversations from now on, under lock."""
    body = {"keep": not off, "days": days, "redact": not as_it_is}
    wish = admin_of(context, url).put(f"/admin/privacy/tenants/{segment(tenant)}", body)
    if as_json:
        print_json(wish)
    elif off:
        typer.echo(
            f"No more conversations of {tenant} are kept. Those there are expire, or go by `ramsey privacy erase`."
        )
    else:
        data = "with personal data as it is" if as_it_is else "with personal data replaced"
        typer.echo(f"Conversations of {tenant} are kept for {days} days, {data}.")


@app.command("export")
def export(context: typer.Context, subject: Subject, tenant: Tenant = None, url: Url = None) -> None:
    """Print everything that is kept of a person, one JSON object a line."""
    admin = admin_of(context, url)
    body: dict[str, Any] = {"subject": subject, "tenant": tenant}
    count = 0
    while True:
        page = admin.post("/admin/privacy/export", body)
        for one in page["conversations"]:
            typer.echo(json.dumps(one, ensure_ascii=False))
        count += len(page["conversations"])
        if page["next"] is None:
            break
        body["after"] = page["next"]
    typer.echo(f"{count} conversations of {subject} in {_place(tenant)}.", err=True)


@app.command("erase")
def erase(
    context: typer.Context,
    subject: Subject,
    tenant: Tenant = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Erase everything that is kept of a person. Nobody can bring it back."""
    if not yes:
        try:
            typer.confirm(f"Erase all that is kept of {subject} in {_place(tenant)}?", abort=True, err=True)
        except typer.Abort:
            raise ConfigurationError("Nothing was erased.", hint="Say yes, or give --yes.") from None
    erased = admin_of(context, url).post("/admin/privacy/erase", {"subject": subject, "tenant": tenant})
    if as_json:
        print_json(erased)
    else:
        what = f"{erased['conversations']} conversations and {erased['votes']} votes of {subject}"
        typer.echo(f"Erased {what} in {_place(tenant)}.")


@app.command("rotate")
def rotate(context: typer.Context, url: Url = None, as_json: Json = False) -> None:
    """Seal everything with the first of privacy.keys; then the other keys may go."""
    done = admin_of(context, url).post("/admin/privacy/rotate", {})
    if as_json:
        print_json(done)
    else:
        typer.echo(f"Sealed {done['conversations']} conversations with the new key.")


def _place(tenant: str | None) -> str:
    return f"the tenant {tenant}" if tenant is not None else "your own tenant (--tenant names another)"

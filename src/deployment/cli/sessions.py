"""`ramsey sessions`: browsers that people signed in with."""

from typing import Annotated

import typer

from deployment.cli.admin import Url, admin_of, all_pages, plain, segment, shown_time
from deployment.cli.output import Json, console, print_json, table

app = typer.Typer(help="List and end the sessions of browsers.", no_args_is_help=True, rich_markup_mode=None)

_ID_CHARS = 19
SessionId = Annotated[str, typer.Argument(help="The session's id, as `ramsey sessions list` shows it.", metavar="ID")]


@app.command("list")
def listed(
    context: typer.Context,
    tenant: Annotated[str | None, typer.Option(help="Of this tenant alone.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List the browsers that people are signed in with."""
    found = all_pages(admin_of(context, url), "/admin/sessions", tenant)
    if as_json:
        print_json(found)
        return
    if not found:
        typer.echo("Nobody is signed in with a browser.")
        return
    rows = table("id", "who", "tenant", "last seen (UTC)")
    rows.columns[0].min_width = _ID_CHARS  # to be copied: never cut
    for each in found:
        seen = shown_time(each["last_seen_at"])
        rows.add_row(each["public_id"], plain(each["name"]), each["tenant"], seen)
    console().print(rows)


@app.command()
def revoke(context: typer.Context, session_id: SessionId, url: Url = None, as_json: Json = False) -> None:
    """Sign a browser out, everywhere within a second."""
    ended = admin_of(context, url).post(f"/admin/sessions/{segment(session_id)}/revoke", {})
    if as_json:
        print_json(ended)
    else:
        typer.echo(f"Signed {ended['name']} out ({session_id}).")

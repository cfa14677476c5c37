"""`ramsey audit`: the record of administrative acts and refused access."""

import time
from typing import Annotated, Any

import typer

from deployment.cli.admin import Admin, Url, admin_of, shown_time
from deployment.cli.output import Json, print_json

app = typer.Typer(help="Read and check the record of who did what.", no_args_is_help=True, rich_markup_mode=None)

_FOLLOW_S = 1.0
_PAGE = 1000


@app.command()
def tail(
    context: typer.Context,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many of the newest.", min=1, max=_PAGE)] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show the newest entries, the newest last; with --json one object a line."""
    admin = admin_of(context, url)
    entries = admin.items(f"/admin/audit?limit={lines}")[::-1]
    _tell(entries, as_json)
    last = entries[-1]["seq"] if entries else 0
    while follow:
        time.sleep(_FOLLOW_S)
        entries = _since(admin, last)
        _tell(entries, as_json)
        last = entries[-1]["seq"] if entries else last


@app.command()
def verify(context: typer.Context, url: Url = None, as_json: Json = False) -> None:
    """Check that nothing in the record was changed or taken out. Exit status 1 when it was."""
    report = admin_of(context, url).get("/admin/audit/verify")
    if as_json:
        print_json(report)
    elif report["whole"]:
        typer.echo(f"The record is whole: {report['entries']} entries.")
        typer.echo(f"The last hash is {report['last_hash']}. Keep it elsewhere, to notice when the end was cut off.")
    else:
        typer.echo(f"The record was changed: entry {report['broken_at']} does not fit the one before it.", err=True)
    raise typer.Exit(0 if report["whole"] else 1)


def _since(admin: Admin, last: int) -> list[dict[str, Any]]:
    """What came after an entry, the oldest first."""
    found: list[dict[str, Any]] = []
    before = ""
    while True:
        page = admin.items(f"/admin/audit?limit=100{before}")
        found += [entry for entry in page if entry["seq"] > last]
        if len(page) < 100 or page[-1]["seq"] <= last:
            return found[::-1]
        before = f"&before={page[-1]['seq']}"


def _tell(entries: list[dict[str, Any]], as_json: bool) -> None:
    import json

    for entry in entries:
        if as_json:
            typer.echo(json.dumps(entry, ensure_ascii=False))
            continue
        who = entry["actor_name"] + (f" from {entry['source']}" if entry["source"] else "")
        detail = f"  {json.dumps(entry['detail'], ensure_ascii=False)}" if entry["detail"] else ""
        typer.echo(f"{entry['seq']:>6}  {shown_time(entry['at'])}  {who}: {entry['action']} {entry['subject']}{detail}")

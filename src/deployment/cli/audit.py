"""`ramsey audit`: the record of administrative acts and refused access."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TextIO
from urllib.parse import urlencode

import typer

from deployment.cli.admin import Admin, Url, admin_of, moment, shown_time, span
from deployment.cli.output import Json, print_json
from deployment.errors import ConfigurationError

app = typer.Typer(help="Read, keep and check the record of who did what.", no_args_is_help=True, rich_markup_mode=None)

_FOLLOW_S = 1.0
_PAGE = 1000
_CHECKED_AT_ONCE = 5000

Since = Annotated[str | None, typer.Option(help="From then on: a length such as 30d, or a time such as 2027-01-31.")]
Until = Annotated[str | None, typer.Option(help="Up to then, as --since.")]
Tenant = Annotated[str | None, typer.Option(help="Only what this tenant's administrators did.")]


@app.command()
def tail(
    context: typer.Context,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many of the newest.", min=1)] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show the newest entries, the newest last; with --json one object a line."""
    admin = admin_of(context, url)
    entries = _newest(admin, lines)
    _tell(entries, as_json)
    last = entries[-1]["seq"] if entries else 0
    while follow:
        time.sleep(_FOLLOW_S)
        for entry in _after(admin, last):
            _tell([entry], as_json)
            last = entry["seq"]


@app.command()
def export(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", help="File to write, replaced if it is there; - for standard output.")],
    since: Since = None,
    until: Until = None,
    tenant: Tenant = None,
    url: Url = None,
) -> None:
    """Write the record to a file, one JSON object a line, the oldest first. `ramsey audit verify --file` checks it."""
    asked = {"since": _moment(since, "--since"), "until": _moment(until, "--until"), "tenant": tenant}
    entries = _after(admin_of(context, url), 0, **asked)
    count, last_hash = 0, ""
    try:
        with _written(out) as file:
            for entry in entries:
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
                count, last_hash = count + 1, entry["hash"]
                _progress(f"{count:,} entries", count)
    except OSError as error:
        raise ConfigurationError(f"{out} cannot be written: {error.strerror}.") from None
    finally:
        _progress("", 0)
    typer.echo(f"Wrote {count:,} entries to {'standard output' if str(out) == '-' else out}.", err=str(out) == "-")
    if count:
        told = f"The last hash is {last_hash}. Keep it elsewhere, to notice when the end was cut off."
        typer.echo(told, err=str(out) == "-")


@contextmanager
def _written(out: Path) -> Iterator[TextIO]:
    """A file that is there whole or not at all. What is no file, a pipe or a device, is written as it is."""
    if str(out) == "-":
        yield sys.stdout
        return
    if out.exists() and not out.is_file():
        with out.open("w", encoding="utf-8") as file:
            yield file
        return
    out = out.resolve()  # a link stays one
    part = out.with_name(out.name + ".part")
    try:
        with os.fdopen(os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            yield file
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


@app.command()
def verify(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Option("--file", help="A file of `ramsey audit export`, without asking.")
    ] = None,
    gaps: Annotated[bool, typer.Option("--gaps", help="Entries may be left out, as in one tenant's file.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Check that nothing in the record was changed or taken out. Exit status 1 when it was."""
    if file is not None:
        report = _verify_file(file, gaps)
    elif gaps:
        raise ConfigurationError("--gaps is for a --file: the record itself has none.")
    else:
        report = _verify(admin_of(context, url))
    if as_json:
        print_json(report)
    elif report["whole"]:
        typer.echo(f"{file or 'The record'} is whole: {report['entries']} entries.")
        typer.echo(f"The last hash is {report['last_hash']}. Keep it elsewhere, to notice when the end was cut off.")
    else:
        told = f"{file or 'The record'} was changed: entry {report['broken_at']} does not fit the one before it."
        typer.echo(told, err=True)
        if file is not None and not gaps:
            typer.echo("  Where the file is one tenant's, say --gaps.", err=True)
    raise typer.Exit(0 if report["whole"] else 1)


def _verify(admin: Admin) -> dict[str, Any]:
    """In parts, so that it can be told how far it is."""
    after = 0
    while True:
        report = admin.get(f"/admin/audit/verify?after={after}&limit={_CHECKED_AT_ONCE}")
        if not report["whole"] or report["entries"] >= report["of"]:
            _progress("", 0)
            return report
        after = report["entries"]
        _progress(f"{after:,} of {report['of']:,} entries", 0)


def _verify_file(file: Path, gaps: bool) -> dict[str, Any]:
    from deployment.access import check_lines

    try:
        with file.open("rb") as lines:
            report = check_lines(lines, gaps=gaps, told=lambda n: _progress(f"{n:,} entries", n))
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}.") from None
    _progress("", 0)
    shown = {"entries": report.entries, "of": report.of, "broken_at": report.broken_at, "last_hash": report.last_hash}
    return {"whole": report.broken_at is None, **shown}


def _newest(admin: Admin, lines: int) -> list[dict[str, Any]]:
    """The newest entries, the oldest of them first."""
    found: list[dict[str, Any]] = []
    while len(found) < lines:
        size = min(_PAGE, lines - len(found))
        before = f"&before={found[-1]['seq']}" if found else ""
        page = admin.items(f"/admin/audit?limit={size}{before}")
        found += page
        if len(page) < size:
            break
    return found[::-1]


def _after(admin: Admin, last: int, **asked: str | None) -> Iterator[dict[str, Any]]:
    """What comes after an entry, the oldest first."""
    given = {name: value for name, value in asked.items() if value is not None}
    while True:
        page = admin.items("/admin/audit?" + urlencode({"limit": _PAGE, "after": last, **given}))
        yield from page
        if len(page) < _PAGE:
            return
        last = page[-1]["seq"]


def _moment(text: str | None, option: str) -> str | None:
    """A time in the past: so long ago, or a time itself."""
    from deployment.clock import SystemClock

    if text is None:
        return None
    now: datetime = SystemClock().now()
    long_ago = text[-1:].isalpha() and text[:-1].isdigit()
    return (now - span(text, option) if long_ago else moment(text, now, option)).isoformat()


def _progress(text: str, count: int) -> None:
    """One line that is written over, on a terminal only; "" clears it."""
    if sys.stderr.isatty() and count % _PAGE == 0:
        typer.echo(f"\r\x1b[K{text}", nl=False, err=True)


def _tell(entries: list[dict[str, Any]], as_json: bool) -> None:
    for entry in entries:
        if as_json:
            typer.echo(json.dumps(entry, ensure_ascii=False))
            continue
        who = entry["actor_name"] + (f" from {entry['source']}" if entry["source"] else "")
        detail = f"  {json.dumps(entry['detail'], ensure_ascii=False)}" if entry["detail"] else ""
        typer.echo(f"{entry['seq']:>6}  {shown_time(entry['at'])}  {who}: {entry['action']} {entry['subject']}{detail}")

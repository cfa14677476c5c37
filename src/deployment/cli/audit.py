"""`ramsey audit`: the record of administrative acts and refused access."""

import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO
from urllib.parse import urlencode

import typer

from deployment.cli.admin import Admin, Url, admin_of, moment, shown_time, span
from deployment.cli.output import Json, print_json
from deployment.errors import ConfigurationError

if TYPE_CHECKING:
    from deployment.access import FileReport

app = typer.Typer(help="Read, keep and check the record of who did what.", no_args_is_help=True, rich_markup_mode=None)

_FOLLOW_S = 1.0
_PAGE = 1000
_CHECKED_AT_ONCE = 5000
_INDENT = " " * 8
_KEEP = "The last hash is {}. Keep it elsewhere, to notice when the end was cut off."

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
    typer.echo(f"Wrote {_counted(count)} to {'standard output' if str(out) == '-' else out}.", err=str(out) == "-")
    if count:
        typer.echo(_KEEP.format(last_hash), err=str(out) == "-")


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
    """Check that nothing in the record was changed or taken out. Exit status 1 when it was, or a file is empty."""
    if file is not None:
        whole = _verify_file(file, gaps, as_json)
    elif gaps:
        raise ConfigurationError("--gaps is for a --file: the record itself has none.")
    else:
        whole = _verify_record(admin_of(context, url), as_json)
    raise typer.Exit(0 if whole else 1)


def _verify_record(admin: Admin, as_json: bool) -> bool:
    report = _verify(admin)
    if as_json:
        print_json(report)
    elif not report["whole"]:
        typer.echo(f"The record was changed: entry {report['broken_at']} does not fit the one before it.", err=True)
    elif not report["entries"]:
        typer.echo("The record has no entry yet.")
    else:
        typer.echo(f"The record is whole: {_counted(report['entries'])}.")
        typer.echo(_KEEP.format(report["last_hash"]))
    return bool(report["whole"])


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


def _verify_file(file: Path, gaps: bool, as_json: bool) -> bool:
    """Whether the file holds entries, and all of them fit. Says what was looked at, and what could not be."""
    from deployment.access import check_lines

    try:
        with file.open("rb") as lines:
            report = check_lines(lines, gaps=gaps, told=lambda n: _progress(f"{n:,} entries", n))
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}.") from None
    _progress("", 0)
    whole = report.broken_at is None and report.entries > 0
    if as_json:
        print_json({"whole": whole, **asdict(report)})
    else:
        for line in file_verdict(str(file), report, gaps=gaps):
            typer.echo(line, err=not whole)
    return whole


def file_verdict(name: str, report: "FileReport", *, gaps: bool) -> list[str]:
    """What the look at a file came to, in lines."""
    if report.broken_at is not None:
        why = "does not fit its own hash" if report.changed else "does not fit the one before it"
        hint = [] if gaps or report.changed else ["  Where the file is one tenant's, say --gaps."]
        return [f"{name} is not whole: entry {report.broken_at} {why}.", *hint]
    if not report.entries:
        return [f"{name} holds no entry: nothing was checked."]
    found = f"{_counted(report.entries)}, {report.first} to {report.last}"
    lines = [f"{name} is whole: {found}." if not report.left_out else f"{name}: {found}, each fits its own hash."]
    if report.first > 1:
        told = f"Not checked: what came before entry {report.first}. It follows the hash {report.before}."
        lines.append(told)
    if report.left_out:
        told = f"Not checked: {report.left_out} between them that are not in the file, and what follows each gap"
        lines.append(f"{told}: who changed that can have made its hash anew.")
    return [*lines, _KEEP.format(report.last_hash)]


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


def _counted(number: int) -> str:
    return f"{number:,} {'entry' if number == 1 else 'entries'}"


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
        lines = [f"{entry['seq']:>6}  {shown_time(entry['at'])}  {who}: {entry['action']} {entry['subject']}"]
        plain = {name: value for name, value in entry["detail"].items() if not isinstance(value, dict)}
        lines += [_shown(plain)] if plain else []
        for name, value in sorted(entry["detail"].items(), key=lambda item: item[0] == "after"):  # what was, first
            lines += [f"{name}: {_shown(value)}"] if value and name not in plain else []
        typer.echo(_folded(lines) if sys.stdout.isatty() else "  ".join(lines))


def _shown(value: Any) -> str:
    """A detail as people read it: what is not there is left out."""
    if not isinstance(value, dict):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    there = {name: each for name, each in value.items() if each not in (None, [], {}, "")}
    return ", ".join(f"{name} {_shown(each)}" for name, each in there.items())


def _folded(lines: list[str]) -> str:
    """Each line within the terminal, what goes on below the first one indented."""
    width = max(40, shutil.get_terminal_size().columns)
    first = textwrap.wrap(lines[0], width, subsequent_indent=_INDENT)
    rest = [textwrap.wrap(line, width, initial_indent=_INDENT, subsequent_indent=_INDENT + "  ") for line in lines[1:]]
    return "\n".join([*first, *(part for each in rest for part in each)])

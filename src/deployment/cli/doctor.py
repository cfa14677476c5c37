"""`ramsey doctor`: what is wrong, and the mend."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

import typer

from deployment.cli.output import Json, console, print_json
from deployment.errors import RamseyError

if TYPE_CHECKING:
    from deployment.cli.checks import Finding

_MARKS = {"ok": "[green]ok[/green]  ", "warning": "[yellow]warn[/yellow]", "wrong": "[red]no[/red]  "}


def doctor(context: typer.Context, as_json: Json = False) -> None:
    """Look for what is wrong, and say how to mend it. Exit status 1 when something is."""
    from dataclasses import asdict

    from deployment.cli import checks
    from deployment.cli.context import settings_of

    findings = _all((checks.python, checks.clock))
    try:
        settings = settings_of(context)
    except RamseyError as error:
        findings.append(checks.Finding("settings", "wrong", error.message, error.hint or ""))
    else:
        findings.append(checks.Finding("settings", "ok", f"valid, profile {settings.profile.value}"))
        findings += _all(partial(check, settings) for check in checks.WITH_SETTINGS)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        _show(findings)
    raise typer.Exit(1 if any(finding.state == "wrong" for finding in findings) else 0)


def _all(checks: "Iterable[Callable[[], list[Finding]]]") -> "list[Finding]":
    return [finding for check in checks for finding in check()]


def _show(findings: "list[Finding]") -> None:
    from rich.markup import escape

    for finding in findings:
        console().print(f"  {_MARKS[finding.state]} [bold]{finding.name:<9}[/bold] {escape(finding.text)}")
        if finding.mend:
            console().print(f"       [dim]{'':<9}[/dim] {escape(finding.mend)}")
    wrong = sum(finding.state == "wrong" for finding in findings)
    warnings = sum(finding.state == "warning" for finding in findings)
    typer.echo()
    if wrong or warnings:
        typer.echo(f"{wrong} wrong, {warnings} to think about.")
    else:
        typer.echo("All is well.")

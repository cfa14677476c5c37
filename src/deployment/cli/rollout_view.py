"""A rollout on a terminal: live where there is one, else a line for each change."""

import json
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import typer

from deployment.cli.output import console, table
from deployment.clock import SystemClock

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

_COLOURS = {"done": "green", "rolled_back": "red", "aborted": "red", "refused": "red"}
_SIGNS = {"pass": "[green]✓[/green]", "fail": "[red]✗[/red]", "inconclusive": "[yellow]…[/yellow]"}
_BAR = 28


def follow(states: Iterable[dict[str, Any]], *, as_json: bool, live: bool) -> dict[str, Any] | None:
    """Show every state as it comes; the last one."""
    last: dict[str, Any] | None = None
    if live:
        from rich.live import Live

        with Live(console=console(), auto_refresh=False) as view:
            for last in states:
                view.update(screen(last), refresh=True)
        return last
    for shown in states:
        if last is None or _changed(last, shown):
            typer.echo(json.dumps(shown, ensure_ascii=False) if as_json else line(shown))
        last = shown
    return last


def line(shown: dict[str, Any]) -> str:
    """A rollout in one line."""
    new = shown["candidate"]
    where = shown["phase"].replace("_", " ") + (f", {shown['stop']}" if shown["stop"] else "")
    figures = f"{new['requests']} requests, {new['failed']} failed" if new["requests"] else "no requests yet"
    return f"{shown['weight'] * 100:5.4g} %  {where}: {shown['reason']} ({figures})"


def screen(shown: dict[str, Any]) -> "Group":
    """A rollout on a screen."""
    from rich.console import Group
    from rich.markup import escape
    from rich.text import Text

    colour = "yellow" if shown["stop"] else _COLOURS.get(shown["phase"], "cyan")
    where = shown["phase"].replace("_", " ") + (f" ({shown['stop']})" if shown["stop"] else "")
    head = Text.from_markup(
        f"[bold]{shown['from_release']} → {shown['to_release']}[/bold]  {shown['strategy']}  "
        f"[{colour}]{where}[/{colour}]  [dim]{shown['id']}[/dim]"
    )
    waits = [Text(shown["waits"], style="dim")] if shown["waits"] and not shown["stop"] else []
    parts: list[RenderableType] = [head, Text(shown["reason"]), *waits, _steps(shown), _sides(shown)]
    if shown["verdicts"]:
        parts.append(_verdicts(shown))
    if closed := [gate for gate in shown["gates"] if not gate["passed"]]:
        parts += [Text.from_markup(f"[red]✗[/red] {escape(gate['name'])}: {escape(gate['reason'])}") for gate in closed]
    harmed = shown["harmed"]
    parts.append(Text.from_markup(f"Requests harmed: [bold]{harmed}[/bold]" + (f"   {_age(shown)}")))
    return Group(*parts)


def _steps(shown: dict[str, Any]) -> "RenderableType":
    from rich.text import Text

    told = []
    for number, step in enumerate(shown["steps"]):
        share = f"{step['weight'] * 100:.4g} %"
        current = shown["phase"] == "steps" and number == shown["step"]
        passed = shown["phase"] in {"bake", "done"} or (shown["phase"] == "steps" and number < shown["step"])
        told.append(
            f"[bold cyan]▶ {share}[/bold cyan]" if current else f"[green]✓ {share}[/green]" if passed else share
        )
    return Text.from_markup("  →  ".join(told))


def _sides(shown: dict[str, Any]) -> "Table":
    from deployment.cli.output import table

    rows = table("release", "share", "requests", "failed", "slow", "first token p50/p95", "per token", "score")
    for side in (shown["stable"], shown["candidate"]):
        rate = f" ({side['failed'] / side['requests']:.1%})" if side["requests"] else ""
        rows.add_row(
            side["release"],
            f"{side['weight'] * 100:.4g} %",
            str(side["requests"]),
            f"{side['failed']}{rate}",
            str(side["slow"]),
            f"{_ms(side['ttft_p50_ms'])} / {_ms(side['ttft_p95_ms'])}",
            _ms(side["token_p50_ms"]),
            f"{side['score']:.3f} of {side['scored']}" if side["scored"] else "–",
        )
    return rows


def _verdicts(shown: dict[str, Any]) -> "Table":
    from rich.markup import escape

    evidence = {each["name"]: each for each in shown["evidence"]}
    rows = table("", "check", "evidence", "why")
    for column in rows.columns[:-1]:
        column.no_wrap = True
    for verdict in shown["verdicts"]:
        near = evidence.get(verdict["check"])
        rows.add_row(_SIGNS[verdict["result"]], verdict["check"], _bar(near), escape(verdict["reason"]))
    return rows


def _bar(evidence: dict[str, Any] | None) -> str:
    """How far toward its limit."""
    if evidence is None or not evidence["limit"]:
        return ""
    way = max(0.0, min(1.0, evidence["value"] / evidence["limit"]))
    full = round(way * _BAR)
    colour = "red" if way >= 1 else "yellow" if way >= 0.5 else "green"
    return f"[{colour}]{'█' * full}[/{colour}][dim]{'░' * (_BAR - full)}[/dim]"


def _ms(milliseconds: float | None) -> str:
    return f"{milliseconds:.3g} ms" if milliseconds is not None else "–"


def _age(shown: dict[str, Any]) -> str:
    end = datetime.fromisoformat(shown["ended_at"]) if shown["ended_at"] else SystemClock().now()
    return f"[dim]{(end - datetime.fromisoformat(shown['started_at'])).total_seconds():.0f} s since its start[/dim]"


def _changed(before: dict[str, Any], now: dict[str, Any]) -> bool:
    told = ("phase", "step", "stop", "reason", "weight")
    verdicts = [[(verdict["check"], verdict["result"]) for verdict in each["verdicts"]] for each in (before, now)]
    return [before[name] for name in told] != [now[name] for name in told] or verdicts[0] != verdicts[1]

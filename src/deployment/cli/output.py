"""How the command line speaks: short lines for people, JSON for machines, colour only on a terminal."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployment.errors import RamseyError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_WIDTH_ELSEWHERE = 1000
"""Of what is no terminal, a pipe or a file, where nobody wants lines folded."""

Json = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def console(*, stderr: bool = False) -> "Console":
    """A terminal that knows its width and whether it has colours."""
    from rich.console import Console

    width = None if (sys.stderr if stderr else sys.stdout).isatty() else _WIDTH_ELSEWHERE
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=width)


def table(*columns: str) -> "Table":
    """An empty table in the house's style. On a narrow terminal cells go on in the next line: a name that is cut
    cannot be copied."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def show_error(error: RamseyError, *, as_json: bool) -> None:
    """What is wrong, and what to do."""
    if as_json:
        print_json({"error": {"code": error.code, "message": error.message, "hint": error.hint}})
        return
    typer.secho("Error: ", fg="red", bold=True, nl=False, err=True)
    typer.echo(error.message, err=True)
    for line in (*getattr(error, "__notes__", ()), *([error.hint] if error.hint else ())):
        typer.echo(f"  {line}", err=True)


def show_unexpected(error: Exception, *, as_json: bool) -> None:
    """A fault of ours."""
    told = RamseyError(
        f"Unexpected {type(error).__name__}: {error}", hint="This is a fault in Ramsey; --debug shows where."
    )
    show_error(told, as_json=as_json)


@dataclass
class Phase:
    """One step of a longer work; `detail` is what it came to."""

    name: str
    detail: str = ""


@dataclass
class Phases:
    """The steps of a longer work, a line and a time each. Silent ones are for `--json`."""

    silent: bool = False
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[Phase]:
        """Time a step; on a terminal something moves meanwhile."""
        phase = Phase(name)
        began = time.perf_counter()
        with self._moving(name):
            yield phase
        self.seconds[name.lower()] = round(time.perf_counter() - began, 3)
        self.say(f"  [bold]{name:<8}[/bold] {phase.detail:<58} [dim]{self.seconds[name.lower()]:5.1f} s[/dim]")

    def say(self, text: str = "") -> None:
        """A line in rich's markup."""
        if not self.silent:
            console().print(text)
            sys.stdout.flush()

    @contextmanager
    def _moving(self, name: str) -> Iterator[None]:
        if self.silent or not sys.stdout.isatty():
            yield
            return
        with console().status(f"{name} …"):
            yield

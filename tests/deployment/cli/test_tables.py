"""Tables: whole where they are piped, folded where the terminal is narrow; never cut."""

import os
import pty
import re
import subprocess
import sys
import termios

import pytest

PRINT = """
import sys
from deployment.cli.output import console, table
rows = table("id", "name", "roles")
rows.add_row(*sys.argv[1:])
console().print(rows)
"""
ID, NAME = "k" + "0123456789" * 4, "a name of some words that is rather long"
ROLES = "operator, user, viewer, admin, another-role"

COMMAND = [sys.executable, "-c", PRINT, ID, NAME, ROLES]


def printed(columns: int | None) -> str:
    """What is shown in a pipe (None), or on a terminal of so many columns."""
    if columns is None:
        return subprocess.run(COMMAND, capture_output=True, text=True, check=True).stdout
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, columns))
    environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
    subprocess.run(COMMAND, stdout=theirs, check=True, env=environment | {"TERM": "xterm"})
    os.close(theirs)
    with os.fdopen(ours, "rb") as reader:
        shown = b""
        while piece := _more(reader.fileno()):
            shown += piece
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).replace("\r\n", "\n")


def _more(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux's way to say that the other side is closed
        return b""


def test_a_row_in_a_pipe_is_one_line_with_all_of_it() -> None:
    head, row = (line.rstrip() for line in printed(None).splitlines())
    assert head.split() == ["id", "name", "roles"]
    assert row.split("  ") == [
        ID,
        "a name of some words that is rather long",
        "operator, user, viewer, admin, another-role",
    ]


@pytest.mark.parametrize("columns", [40, 80, 100])
def test_a_narrow_terminal_folds_what_it_has_no_room_for(columns: int) -> None:
    shown = printed(columns)
    assert "…" not in shown
    assert max(len(line) for line in shown.splitlines()) <= columns
    letters = sorted(shown.replace(" ", "").replace("\n", ""))
    assert letters == sorted(printed(None).replace(" ", "").replace("\n", ""))

"""The record as a file, one entry a line in JSON: checked without a database."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace

import orjson

from deployment.access.audit import START, AuditEntry, first_break, seal
from deployment.errors import InvalidRequest

_FIELDS = frozenset(field.name for field in fields(AuditEntry))


@dataclass(frozen=True, slots=True)
class FileReport:
    """What a look at a file found."""

    entries: int = 0
    """How many are whole, from the first on."""
    first: int = 0
    last: int = 0
    """Numbers of the first and last of them; 0 without any."""
    left_out: int = 0
    """How many are not in the file between those."""
    before: str = START
    """The hash that the first one follows."""
    last_hash: str = ""
    broken_at: int | None = None
    """Number of the first entry that does not fit; None when all do."""
    changed: bool = False
    """Whether that one does not fit its own hash, rather than the entry before it."""


def check_lines(
    lines: Iterable[bytes], *, gaps: bool = False, told: Callable[[int], None] = lambda _: None
) -> FileReport:
    """Whether the lines are entries of one chain, none changed and (but with `gaps`) none left out.

    They may begin anywhere. Holds one line at a time; `told` hears how many were looked at. Raises InvalidRequest for
    a line that is no entry.
    """
    report = FileReport()
    for number, line in enumerate(lines, 1):
        entry = _entry(line, number)
        missing = entry.seq - report.last - 1
        starts = (report.entries == 0 or gaps) and missing > 0
        seq, previous = (entry.seq - 1, entry.previous) if starts else (report.last, report.last_hash or START)
        if first_break([entry], seq, previous) is not None:
            return replace(report, broken_at=entry.seq, changed=entry.hash != seal(entry))
        if report.entries == 0:
            report = replace(report, first=entry.seq, before=entry.previous)
        elif starts:
            report = replace(report, left_out=report.left_out + missing)
        report = replace(report, entries=number, last=entry.seq, last_hash=entry.hash)
        told(number)
    return report


def _entry(line: bytes, number: int) -> AuditEntry:
    try:
        given = orjson.loads(line)
        detail = orjson.dumps(given["detail"], option=orjson.OPT_SORT_KEYS).decode()
        return AuditEntry(**{name: given[name] for name in _FIELDS - {"detail"}}, detail=detail)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise InvalidRequest(
            f"Line {number} is no entry of the record.", hint="`ramsey audit export` writes such a file."
        ) from None

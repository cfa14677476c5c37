"""The record as a file, one entry a line in JSON: checked without a database."""

from collections.abc import Callable, Iterable
from dataclasses import fields

import orjson

from deployment.access.audit import START, AuditEntry, ChainReport, first_break
from deployment.errors import InvalidRequest

_FIELDS = frozenset(field.name for field in fields(AuditEntry))


def check_lines(
    lines: Iterable[bytes], *, gaps: bool = False, told: Callable[[int], None] = lambda _: None
) -> ChainReport:
    """Whether the lines are entries of one chain, none changed and (but with `gaps`) none left out.

    They may begin anywhere. Holds one line at a time; `told` hears how many were looked at. Raises InvalidRequest for
    a line that is no entry.
    """
    seq, previous, count = 0, START, 0
    for number, line in enumerate(lines, 1):
        entry = _entry(line, number)
        starts = (count == 0 or gaps) and entry.seq > seq + 1
        if first_break([entry], entry.seq - 1 if starts else seq, entry.previous if starts else previous) is not None:
            return ChainReport(count, entry.seq, previous, entry.seq)
        seq, previous, count = entry.seq, entry.hash, count + 1
        told(count)
    return ChainReport(count, None, previous, seq)


def _entry(line: bytes, number: int) -> AuditEntry:
    try:
        given = orjson.loads(line)
        detail = orjson.dumps(given["detail"], option=orjson.OPT_SORT_KEYS).decode()
        return AuditEntry(**{name: given[name] for name in _FIELDS - {"detail"}}, detail=detail)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise InvalidRequest(
            f"Line {number} is no entry of the record.", hint="`ramsey audit export` writes such a file."
        ) from None

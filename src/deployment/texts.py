"""Texts that people write for people: shown in terminals, tables and logs, and kept in databases."""

import re
from typing import Annotated

from pydantic import AfterValidator

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def _plain(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("it has control characters")
    return text


def _one_line(text: str) -> str:
    if "\n" in text or "\t" in text:
        raise ValueError("it has control characters")
    return _plain(text)


Plain = Annotated[str, AfterValidator(_plain)]
"""Tabs and line ends, and no other control character: a terminal would obey them, and PostgreSQL keeps no NUL."""
PlainLine = Annotated[str, AfterValidator(_one_line)]
"""No control character at all."""

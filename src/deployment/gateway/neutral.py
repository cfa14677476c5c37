"""A caller's text stays text: no control characters, and nothing in it begins a turn of the conversation."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from deployment.errors import InvalidRequest

_BREAK = "\u200b"  # a space without width: it reads the same, and the token is none any more
_CONTROL = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f"
# As releases' MARKER, by first character.
_ANY_MARKER = {
    "<": r"[|｜][^<>|｜\n]{1,64}[|｜]>|/?s>|</?SYS>>|(?:start|end)_of_turn>|(?:bos|eos|unk|pad)>",
    "[": r"/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT)\]",
}
# Templates read everything else, today or with the next engine. A stop is compared with the answer, a format makes a
# grammar; a role is one of few words by the dialects' own rules.
_NOT_READ = frozenset({"options", "format", "images", "messages", "role"})


def pattern_of(tokens: Iterable[str] | None) -> re.Pattern[str]:
    """Finds control characters, and the first character of every one of `tokens` (None: of what looks like one)."""
    rests: dict[str, list[str]] = {}
    for token in tokens or ():
        if not re.match(f"[{_CONTROL}]", token):
            rests.setdefault(token[0], []).append(token[1:])
    begun = _ANY_MARKER if tokens is None else {first: _tree(rest) for first, rest in rests.items()}
    # One set of characters stands first, so that clean text is passed over at the speed of a search; only one
    # character is consumed, so that markers which overlap are all found.
    firsts = "".join(re.escape(first) for first in begun)
    ways = [f"(?<={re.escape(first)})(?={rest})" for first, rest in begun.items()]
    return re.compile(f"[{_CONTROL}{firsts}](?:{'|'.join([f'(?<=[{_CONTROL}])', *ways])})")


def neutral(text: str, pattern: re.Pattern[str], where: str) -> str:
    """The text with every marker broken. Raises InvalidRequest for a control character; `where` names the field."""
    if pattern.search(text) is None:
        return text

    def broken(found: re.Match[str]) -> str:
        if found[0] < " " or "\x7f" <= found[0] <= "\x9f":
            raise InvalidRequest(
                f"{where}: has the control character U+{ord(found[0]):04X} at position {found.start()}.",
                hint="Of these, only tab and line ends are taken.",
            )
        return found[0] + _BREAK

    return pattern.sub(broken, text)


def neutral_body(body: Mapping[str, Any], pattern: re.Pattern[str]) -> dict[str, Any]:
    """A copy of a body in Ollama's words, with all that the caller wrote made neutral."""
    clean = _fields(body, pattern, "")
    if messages := clean.get("messages"):
        clean["messages"] = [_fields(message, pattern, f"messages.{at}.") for at, message in enumerate(messages)]
    return clean


def _fields(value: Mapping[str, Any], pattern: re.Pattern[str], where: str) -> dict[str, Any]:
    return {
        name: each if name in _NOT_READ or not each else _within(each, pattern, where + name)
        for name, each in value.items()
    }


def _within(value: Any, pattern: re.Pattern[str], where: str) -> Any:
    """The same for every text of a JSON value, its keys too."""
    if isinstance(value, str):
        return neutral(value, pattern, where)
    if isinstance(value, list):
        return [_within(each, pattern, where) for each in value]
    if isinstance(value, dict):
        return {neutral(key, pattern, where): _within(each, pattern, where) for key, each in value.items()}
    return value


def _tree(words: list[str]) -> str:
    """A pattern of these words that looks at each character once, however many words there are."""
    if "" in words:
        return ""  # a shorter word ends here: that is enough
    rests: dict[str, list[str]] = {}
    for word in words:
        rests.setdefault(word[0], []).append(word[1:])
    branches = [re.escape(first) + _tree(rest) for first, rest in sorted(rests.items())]
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"

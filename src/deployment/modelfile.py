"""Modelfiles: read, checked and written as Ollama does."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from deployment.errors import ConfigurationError
from deployment.spelling import near

Parameter = int | float | bool | str | list[str]

_INTEGERS = (
    "num_ctx num_batch num_gpu main_gpu num_thread draft_num_predict num_keep seed num_predict top_k repeat_last_n"
)
_FLOATS = "top_p min_p typical_p temperature repeat_penalty presence_penalty frequency_penalty"
PARAMETERS: dict[str, type] = {
    **dict.fromkeys(_INTEGERS.split(), int),
    **dict.fromkeys(_FLOATS.split(), float),
    "use_mmap": bool,
    "stop": list,
}
"""What PARAMETER knows, and the type of each."""

_GONE = "mirostat mirostat_tau mirostat_eta tfs_z penalize_newline low_vram f16_kv logits_all vocab_only use_mlock numa"
_ROLES = ("system", "user", "assistant")
_TRUE = {"1", "t", "T", "true", "True", "TRUE"}
_FALSE = {"0", "f", "F", "false", "False", "FALSE"}
_SINGLE = {"from", "template", "system", "renderer", "parser", "requires", "draft"}
_COMMANDS = (*sorted(_SINGLE), "parameter", "adapter", "message", "license")


class Message(NamedTuple):
    """One MESSAGE: an example turn that goes before the caller's own."""

    role: str
    content: str


@dataclass(frozen=True)
class Modelfile:
    """What a model is made of. `load` gives absolute paths; `parse` leaves them as they stand."""

    from_: str
    parameters: dict[str, Parameter] = field(default_factory=dict)
    template: str | None = None
    system: str | None = None
    adapters: tuple[str, ...] = ()
    messages: tuple[Message, ...] = ()
    license: tuple[str, ...] = ()
    renderer: str | None = None
    parser: str | None = None
    requires: str | None = None
    draft: str | None = None

    @property
    def from_path(self) -> Path | None:
        """The weights, where FROM is a file; None where it is a model's name. Known after `load`."""
        path = Path(self.from_)
        return path if path.is_absolute() else None


def parse(text: str, *, source: str = "Modelfile") -> Modelfile:
    """Read a Modelfile. Raises ConfigurationError that names the line and the mend."""
    single: dict[str, str] = {}
    parameters: dict[str, Parameter] = {}
    several: dict[str, list[str]] = {"adapter": [], "license": []}
    messages: list[Message] = []
    for number, command, value in _commands(text, source):
        where = f"{source}, line {number}"
        if command == "parameter":
            _add_parameter(parameters, *_split(value, where, "PARAMETER needs a name and a value"), where)
        elif command == "message":
            role, content = _split(value, where, "MESSAGE needs a role and a text")
            if role not in _ROLES:
                raise _error(where, f"a MESSAGE has no role {role[:40]!r}", f"use {', '.join(_ROLES)}")
            messages.append(Message(role, content))
        elif command in several:
            several[command].append(_unquoted(value))
        elif command == "from" and "from" in single:
            raise _error(where, "a second FROM", "one model has one FROM; remove the other")
        else:
            single[command] = _unquoted(value)
    if not single.get("from"):
        raise _error(source, "FROM is missing", "name the weights: FROM ./model.gguf")
    return Modelfile(
        from_=single.pop("from"),
        parameters=parameters,
        adapters=tuple(several["adapter"]),
        license=tuple(several["license"]),
        messages=tuple(messages),
        **single,
    )


def load(path: Path) -> Modelfile:
    """Read the Modelfile at `path`; FROM, ADAPTER and DRAFT are resolved against its folder.

    Raises ConfigurationError when it, or a file that it names, is missing.
    """
    if path.exists() and not path.is_file():  # reading a pipe would wait for ever
        raise ConfigurationError(f"The Modelfile {path} is no file.", hint="Set model.modelfile to where it is.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigurationError(
            f"The Modelfile {path} cannot be read: {error.strerror or error}.",
            hint="Put it there, or set model.modelfile to where it is.",
        ) from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"The Modelfile {path} is not UTF-8.", hint="Save it as UTF-8.") from None
    read = parse(text, source=str(path))
    folder = path.absolute().parent
    return replace(
        read,
        from_=_resolve(read.from_, folder, path, "FROM"),
        adapters=tuple(_resolve(name, folder, path, "ADAPTER", name=False) for name in read.adapters),
        draft=_resolve(read.draft, folder, path, "DRAFT") if read.draft else read.draft,
    )


def render(modelfile: Modelfile) -> str:
    """Write a Modelfile, so that `parse(render(x)) == x`.

    Raises ConfigurationError for a text that the format cannot hold (Ollama knows no escapes).
    """
    lines = [f"FROM {_quoted(modelfile.from_)}"]
    lines += [f"ADAPTER {_quoted(value)}" for value in modelfile.adapters]
    for command in ("draft", "template", "system", "renderer", "parser", "requires"):
        value = getattr(modelfile, command)
        if value is not None:
            lines.append(f"{command.upper()} {_quoted(value)}")
    for key, parameter in modelfile.parameters.items():
        for one in parameter if isinstance(parameter, list) else [parameter]:
            written = str(one).lower() if isinstance(one, bool) else str(one)
            lines.append(f"PARAMETER {key} {_quoted(written)}")
    lines += [f"MESSAGE {message.role} {_quoted(message.content)}" for message in modelfile.messages]
    lines += [f"LICENSE {_quoted(value)}" for value in modelfile.license]
    return "\n".join(lines) + "\n"


def _error(where: str, what: str, mend: str) -> ConfigurationError:
    end = "" if mend.endswith("?") else "."
    return ConfigurationError(f"{where}: {what}.", hint=f"{mend[0].upper()}{mend[1:]}{end}")


def _commands(text: str, source: str) -> Iterator[tuple[int, str, str]]:
    """Line number, lower-case command and raw value of each; an opened quote goes on over the next lines."""
    lines = enumerate(text.replace("\r\n", "\n").split("\n"), start=1)
    for number, line in lines:
        word, value = [*line.lstrip().split(None, 1), "", ""][:2]
        if not word or word.startswith("#"):
            continue
        command = word.lower()
        where = f"{source}, line {number}"
        if command not in _COMMANDS:
            meant = near(command, _COMMANDS)
            mend = f"did you mean {meant.upper()}?" if meant else "put a # before it if it is a comment"
            raise _error(where, f"{word[:40]!r} is not a command", mend)
        if not value:
            raise _error(where, f"{word.upper()} has no value", 'give one, or "" for an empty text')
        if (quote := _open_quote(_argument(command, value))) is not None:
            rest = _until(quote, lines)
            if rest is None:
                raise _error(where, f"the quote of {word.upper()} is never closed", "end the text with it")
            value = "\n".join([value, *rest])
        yield number, command, value


def _until(quote: str, lines: Iterator[tuple[int, str]]) -> list[str] | None:
    """The lines up to the one that ends with the quote; None where none does."""
    taken = []
    for _, line in lines:
        taken.append(line)
        if line.rstrip().endswith(quote):
            return taken
    return None


def _argument(command: str, value: str) -> str:
    """The part of the value that may be quoted: PARAMETER and MESSAGE have a bare word before it."""
    if command not in {"parameter", "message"}:
        return value
    parts = value.split(None, 1)
    return parts[1] if len(parts) == 2 else ""


def _split(value: str, where: str, what: str) -> tuple[str, str]:
    parts = value.split(None, 1)
    if len(parts) < 2:
        raise _error(where, what, "write both on the line")
    return parts[0].lower(), _unquoted(parts[1])


def _open_quote(value: str) -> str | None:
    """The quote that a value begins with and does not end with; None where the value is whole."""
    value = value.strip()
    for quote in ('"""', '"'):
        if value.startswith(quote):
            return quote if len(value) < 2 * len(quote) or not value.endswith(quote) else None
    return None


def _unquoted(value: str) -> str:
    value = value.strip()
    for quote in ('"""', '"'):
        if value.startswith(quote):
            return value[len(quote) : -len(quote)]
    return value


def _quoted(value: str) -> str:
    """The plainest writing of a value that reads back as itself."""
    for written in (value, f'"{value}"', f'"""{value}"""'):
        try:
            read = list(_commands(f"SYSTEM {written}\nSYSTEM x", ""))
        except ConfigurationError:
            continue
        if len(read) == 2 and _unquoted(read[0][2]) == value:
            return written
    raise ConfigurationError(
        f"A Modelfile cannot hold the text {value[:40]!r}.", hint="Take the quotes at the ends of lines out."
    )


def _add_parameter(parameters: dict[str, Parameter], key: str, value: str, where: str) -> None:
    kind = PARAMETERS.get(key)
    if kind is None and key in _GONE.split():
        raise _error(where, f"Ollama no longer has the parameter {key}", "remove the line")
    if kind is None:
        meant = near(key, PARAMETERS)
        known = f"did you mean {meant}?" if meant else f"known are {', '.join(sorted(PARAMETERS))}"
        raise _error(where, f"there is no parameter {key[:40]!r}", known)
    if kind is list:
        if isinstance(stops := parameters.setdefault(key, []), list):
            stops.append(value)
        return
    typed = _typed(kind, value)
    if typed is None:
        names = {int: "a whole number", float: "a number", bool: "true or false"}
        raise _error(where, f"{key} is {value[:40]!r}", f"give {names[kind]}")
    parameters[key] = typed


def _typed(kind: type, value: str) -> Parameter | None:
    if kind is bool:
        return True if value in _TRUE else False if value in _FALSE else None
    if kind is int:
        return int(value) if re.fullmatch(r"[+-]?[0-9]{1,18}", value) else None
    try:
        number = float(value) if "_" not in value else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _resolve(value: str, folder: Path, modelfile: Path, command: str, *, name: bool = True) -> str:
    """An absolute path where `value` is a file or means one; a model's name as it stands."""
    path = folder / value
    if path.exists():
        return str(path.resolve())
    means_file = value.startswith(("/", ".")) or value.lower().endswith((".gguf", ".safetensors"))
    if means_file or not name:
        raise ConfigurationError(
            f"{modelfile} names {command} {value}, and there is no file {path}.",
            hint=f"Put the file there, or correct the {command} line.",
        )
    return value

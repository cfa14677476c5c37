"""`ramsey config`: the settings, as they are, as they should be, and as they are explained."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from deployment.cli.context import settings_of
from deployment.cli.output import Json, console, print_json

if TYPE_CHECKING:
    from pydantic import BaseModel

app = typer.Typer(help="Show, check and explain the settings.", no_args_is_help=True, rich_markup_mode=None)


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting, explained. `variable` is empty where only the file can set it."""

    key: str
    default: str
    variable: str
    description: str


@app.command()
def show(context: typer.Context, as_json: Json = False) -> None:
    """Show every setting as it is now, as a ramsey.toml; secrets are hidden."""
    values = settings_of(context).model_dump(mode="json")
    if as_json:
        print_json(values)
        return
    for line in toml_lines(values):
        typer.echo(line)


@app.command()
def check(context: typer.Context, as_json: Json = False) -> None:
    """Check the settings as a start does, and warn of what can hardly be meant. Exit status 2 when they are wrong.

    It is 1 when a file that they name is.
    """
    from deployment.cli import checks
    from deployment.preflight import require_startable
    from deployment.settings import config_path

    settings = settings_of(context)
    asyncio.run(require_startable(settings))
    source = config_path(context.obj)
    profile, warnings = settings.profile.value, checks.limits(settings)
    if as_json:
        told = [finding.text for finding in warnings]
        print_json({"ok": True, "file": str(source) if source else None, "profile": profile, "warnings": told})
        return
    typer.echo(f"The settings are {'valid' if warnings else 'fine'} ({source or 'no file'}, profile {profile}).")
    for finding in warnings:
        typer.echo(f"Warning: {finding.text}\n  {finding.mend}", err=True)


@app.command()
def docs(
    markdown: Annotated[bool, typer.Option("--markdown", help="As the page docs/configuration.md.")] = False,
    as_json: Json = False,
) -> None:
    """Explain every setting, with its default and its variable."""
    if as_json:
        print_json([asdict(setting) for setting in documented()])
    elif markdown:
        typer.echo(markdown_page(), nl=False)
    else:
        _print_table()


def documented() -> list[Setting]:
    """Every setting, in the order of the settings' own definition."""
    from deployment.settings import Settings

    return list(_walk(Settings, "", "RAMSEY_"))


def toml_lines(values: dict[str, Any], path: str = "") -> Iterator[str]:
    """A nested dictionary as TOML. What is None is left out, as TOML knows no such thing."""
    tables = {name: value for name, value in values.items() if isinstance(value, dict) and value}
    for name, value in values.items():
        if name not in tables and value is not None:
            yield f"{name} = {_toml(value)}"
    for name, value in tables.items():
        yield ""
        yield f"[{path}{name}]"
        yield from toml_lines(value, f"{path}{name}.")


def markdown_page() -> str:
    """docs/configuration.md."""
    from deployment.settings import OTHER_VARIABLES

    lines = [
        "# Configuration",
        "",
        "<!-- Written by `ramsey config docs --markdown`; a test compares. -->",
        "",
        "Settings come from `ramsey.toml`, then from `RAMSEY_*` variables over it. `ramsey config check` says whether",
        "they are right, `ramsey config show` what they are. Unknown keys and variables are refused. Lists and tables",
        "in a variable are JSON. `OLLAMA_HOST` and `OLLAMA_MODELS` are the defaults of `engine.host` and",
        "`engine.models_dir`.",
    ]
    section = None
    for setting in documented():
        head, _, _ = setting.key.rpartition(".")
        if head != section:
            section = head
            lines += ["", f"## {head or 'General'}", "", "| setting | default | variable | |", "|---|---|---|---|"]
        variable = f"`{setting.variable}`" if setting.variable else ""
        lines.append(f"| `{setting.key}` | {_code(setting.default)} | {variable} | {_cell(setting.description)} |")
    lines += ["", "## Other variables", "", "| variable | |", "|---|---|"]
    lines += [f"| `{name}` | {_cell(text)} |" for name, text in OTHER_VARIABLES.items()]
    return "\n".join(lines) + "\n"


def _print_table() -> None:
    from rich.markup import escape
    from rich.padding import Padding

    for setting in documented():
        head = f"[bold]{escape(setting.key)}[/bold] = {escape(setting.default)}"
        console().print(f"{head}  [dim]{setting.variable}[/dim]", soft_wrap=False)
        console().print(Padding(escape(setting.description), (0, 0, 0, 4), expand=False), soft_wrap=False)


def _walk(model: "type[BaseModel]", path: str, variable: str) -> Iterator[Setting]:
    from deployment.settings import Section

    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            yield from _walk(inner, f"{path}{name}.", f"{variable}{name.upper()}__" if variable else "")
            continue
        default = "required" if field.is_required() else _shown(field.get_default(call_default_factory=True))
        own = f"{variable}{name.upper()}" if variable else ""
        yield Setting(f"{path}{name}", default, own, field.description or "")
        for element in get_args(inner):
            if isinstance(element, type) and issubclass(element, Section):
                yield from _walk(element, f"{path}{name}[].", "")


def _shown(value: Any) -> str:
    if value is None or value == ():
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{json.dumps(key)} = {_toml(each)}" for key, each in value.items() if each is not None)
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(_toml(each) for each in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def _code(text: str) -> str:
    return text if text in {"none", "required"} else f"`{text}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")

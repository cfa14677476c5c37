"""Reads the settings once, and says what is wrong with them."""

import json
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import SettingsConfigDict, SettingsError

from deployment.errors import ConfigurationError
from deployment.settings.environment import named_config, refuse_unknown_variables, variables_holding
from deployment.settings.section import Section
from deployment.settings.tree import Settings
from deployment.spelling import misspelt

CONFIG_FILE = "ramsey.toml"


def config_path(path: Path | None = None) -> Path | None:
    """The file that `load` reads: the one given, else $RAMSEY_CONFIG, else ramsey.toml where it exists."""
    if path is None:
        path = named_config()
    if path is not None:
        if not path.is_file():
            raise ConfigurationError(f"There is no settings file {path}.")
        return path
    return Path(CONFIG_FILE) if Path(CONFIG_FILE).is_file() else None


def load(path: Path | None = None, **overrides: Any) -> Settings:
    """Read the settings from `config_path(path)` and the environment.

    `overrides` are sections as dictionaries, over both (command-line flags, tests).
    Raises ConfigurationError that names every key that is wrong.
    """
    file = config_path(path)
    refuse_unknown_variables(describe_variables())

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    try:
        return FromFile(**overrides)
    except ValidationError as error:
        raise ConfigurationError(_explain(error, file), hint="`ramsey config docs` lists every setting.") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{file} is not TOML: {error}.") from None
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror or error}.") from None
    except SettingsError as error:
        names = variables_holding(getattr(error.__cause__, "doc", None))
        where = f"The variable {' or '.join(names)}" if names else "A variable of the environment"
        raise ConfigurationError(
            f"{where} is no JSON{_place(error.__cause__)}.",
            hint="Lists and tables are given as JSON: names and texts in double quotes, no comma at the end.",
        ) from None


def describe_variables(section: type[BaseModel] | None = None) -> list[str]:
    """Every variable that sets something, without its prefix; a section alone takes JSON."""
    names: list[str] = []
    for name, field in (section or Settings).model_fields.items():
        names.append(name.upper())
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            names += [f"{name.upper()}__{inner}" for inner in describe_variables(field.annotation)]
    return names


def _place(error: BaseException | None) -> str:
    """Where it is wrong, and why; never the text itself, which may be a secret."""
    return f": {error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""


def _explain(error: ValidationError, file: Path | None) -> str:
    """One line per wrong key, in the spelling of the file; never with the value, which may be a secret."""
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        reason = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            found = misspelt([problem], Settings, None)
            reason = "there is no such setting" + (f"; did you mean {found[1]}?" if found else "")
        lines.append(f"{key}: {reason}" if key else reason)
    return f"The settings ({file or 'no file'}, environment) are wrong: " + "; ".join(lines) + "."

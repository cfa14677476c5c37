"""Names of fields that somebody wrote nearly right. Pure."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel

_NEAR = 0.6


def near(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that is meant, if one is much like it."""
    return next(iter(difflib.get_close_matches(name[:64], list(names), 1, _NEAR)), None)


def misspelt(problems: Iterable[Mapping[str, Any]], schema: Any, given: Any) -> tuple[Sequence[int | str], str] | None:
    """Of what pydantic found wrong: where a field stands that is not known, and the name that is meant.

    `given` is the object that was read. A field that is required and not there may be in it under a wrong name.
    """
    for problem in problems:
        if not problem["loc"]:
            continue  # there is no object at all
        *above, name = problem["loc"]
        known = _fields_at(schema, above)
        if problem["type"] == "extra_forbidden" and (meant := near(str(name), known)):
            return problem["loc"], meant
        if problem["type"] == "missing" and (written := near(str(name), _given_at(given, above) - known)):
            return (*above, written), str(name)
    return None


def _fields_at(schema: Any, path: Iterable[int | str]) -> set[str]:
    """The fields that an object at a path may have. Parts that are no fields, as places in lists, lead nowhere."""
    models = list(_models(schema))
    for part in path:
        below = [model.model_fields[part].annotation for model in models if part in model.model_fields]
        models = [model for annotation in below for model in _models(annotation)] or models
    return {field.alias or name for model in models for name, field in model.model_fields.items()}


def _given_at(given: Any, path: Iterable[int | str]) -> set[str]:
    """The names in the object at a path; none where there is no such object."""
    for part in path:
        try:
            given = given[part]
        except (KeyError, IndexError, TypeError):
            return set()
    return {name for name in given if isinstance(name, str)} if isinstance(given, dict) else set()


def _models(schema: Any) -> Iterator[type[BaseModel]]:
    """The models that a type is made of."""
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        yield schema
    for part in get_args(schema):
        yield from _models(part)

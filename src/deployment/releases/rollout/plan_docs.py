"""The keys of a plan as a table in Markdown: docs/rollouts.md holds it, and a test holds it against the code."""

import types
from typing import Any, get_args

from pydantic.fields import FieldInfo

from deployment.releases.rollout.plan import Part, Plan


def table() -> str:
    """Every key, its default and what it means."""
    rows = ["| key | default | what it means |", "|---|---|---|"]
    rows += [f"| `{key}` | {default} | {told} |" for key, default, told in _rows(Plan, "")]
    return "\n".join(rows)


def _rows(part: type[Part], prefix: str) -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    for name, field in part.model_fields.items():
        inner = _part(field.annotation)
        if inner is None:
            rows.append((f"{prefix}{name}", _default(field), field.description or ""))
        else:
            many = "[]" if "tuple" in str(field.annotation) else ""
            if many or field.default is None:
                rows.append((f"{prefix}{name}", _default(field), field.description or ""))
            rows += _rows(inner, f"{prefix}{name}{many}.")
    return rows


def _part(annotation: Any) -> type[Part] | None:
    """The table that a key holds, if it does."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, Part) else None
    return next((found for each in get_args(annotation) if (found := _part(each)) is not None), None)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value in (None, (), {}):
        return ""
    if isinstance(value, tuple):
        return "`" + ", ".join(map(str, value)) + "`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"

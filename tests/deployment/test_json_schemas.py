"""How many alternatives a schema has."""

from typing import Any

import pytest

from deployment.errors import InvalidRequest
from deployment.json_schemas import MOST_CHOICES, check_schema

STRING = {"type": "string"}


def properties(number: int) -> dict[str, Any]:
    return {f"k{index}": STRING for index in range(number)}


def doubled(times: int) -> dict[str, Any]:
    """Two to the power of `times` leaves, by references."""
    steps = {f"d{index}": {"anyOf": [{"$ref": f"#/$defs/d{index + 1}"}] * 2} for index in range(times)}
    return {"$defs": {**steps, f"d{times}": STRING}, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": ["x"] * (MOST_CHOICES + 1)},
        {"anyOf": [STRING] * (MOST_CHOICES + 1)},
        {"properties": properties(MOST_CHOICES + 1)},
        {"properties": {"default": {"enum": ["x"] * (MOST_CHOICES + 1)}}},
        {"type": "array", "items": {"oneOf": [{"enum": ["x"] * 600}, {"enum": ["y"] * 600}]}},
        doubled(40),
    ],
)
def test_too_many(schema: Any) -> None:
    with pytest.raises(InvalidRequest, match="alternatives"):
        check_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        None,
        "json",
        {"enum": ["x"] * MOST_CHOICES},
        {"properties": properties(5000), "required": list(properties(5000))},
        {"$defs": {"unused": {"enum": ["x"] * 5000}}, "type": "string"},
        {"$defs": {"tree": {"anyOf": [STRING, {"items": {"$ref": "#/$defs/tree"}}]}}, "$ref": "#/$defs/tree"},
        {"$ref": "#/nowhere", "enum": 5, "required": 5, "properties": [], "anyOf": {}},
        {"required": [{}, 1]},
        doubled(8),
    ],
)
def test_few_enough(schema: Any) -> None:
    check_schema(schema)

"""A name that is nearly a field's, wherever it stands."""

import json
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from deployment.spelling import misspelt, near


class Turn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    role: str
    content: str = ""


class Talk(BaseModel):
    model_config = ConfigDict(extra="forbid")
    messages: list[Turn] | str
    max_tokens: int | None = None


class Lenient(BaseModel):
    prompt: str


def found(schema: type[BaseModel], given: Any) -> Any:
    with pytest.raises(ValidationError) as caught:
        schema.model_validate_json(json.dumps(given))
    return misspelt(caught.value.errors(), schema, given)


@pytest.mark.parametrize(
    ("schema", "given", "where", "meant"),
    [
        (Talk, {"mesages": []}, ("mesages",), "messages"),
        (Talk, {"messages": [], "max_token": 1}, ("max_token",), "max_tokens"),
        (Talk, {"messages": [{"role": "user", "contnt": ""}]}, ("messages", "list[Turn]", 0, "contnt"), "content"),
        (Lenient, {"promt": "x", "model": "m"}, ("promt",), "prompt"),
    ],
)
def test_what_is_meant_is_named(schema: type[BaseModel], given: Any, where: tuple[Any, ...], meant: str) -> None:
    assert found(schema, given) == (where, meant)


@pytest.mark.parametrize(
    ("schema", "given"),
    [
        (Talk, {"messages": [], "content": "x"}),  # a field, but not of this object
        (Talk, {"messages": [], "temperature": 1}),
        (Lenient, {"model": "m"}),
        (Lenient, ["promt"]),
        (Lenient, {"promt" * 1000: "x"}),
    ],
)
def test_what_is_like_nothing_is_left_alone(schema: type[BaseModel], given: Any) -> None:
    assert found(schema, given) is None


def test_the_nearest_of_several() -> None:
    assert near("token_per_day", ["tokens_per_day", "tokens_per_month", "money_per_day"]) == "tokens_per_day"

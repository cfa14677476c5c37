"""The bounds that every dialect's fields share."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from deployment.errors import InvalidRequest
from deployment.spelling import near

MAX_STOPS = 16
MAX_MESSAGES = 2_000
_BASE64 = re.compile(r"[A-Za-z0-9+/\r\n]+={0,2}[\r\n]*")


def is_base64(text: str) -> bool:
    """A URL or a path is not: nobody behind us shall fetch one."""
    return _BASE64.fullmatch(text) is not None


def _base64(image: str) -> str:
    if not is_base64(image):
        raise ValueError("must be an image in base64")
    return image


ModelName = Annotated[str, Field(min_length=1, max_length=512)]
Temperature = Annotated[float, Field(ge=0, le=2)]
Probability = Annotated[float, Field(gt=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Tokens = Annotated[int, Field(ge=1, lt=2**31)]
StopText = Annotated[str, Field(min_length=1, max_length=256)]
Stops = StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)]
TopLogprobs = Annotated[int, Field(ge=0, le=20)]
Image = Annotated[str, AfterValidator(_base64)]
Schema = dict[str, Any]
Format = Literal["json"] | Schema
EmbeddingInput = (
    Annotated[str, Field(min_length=1)]
    | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=2048)]
)


class Request(BaseModel):
    """A request that refuses fields it does not know: a typing error is told, not ignored."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class OpenRequest(BaseModel):
    """A request of somebody else's API, whose clients may send more than we know."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


def refuse_misspelt(schema: BaseModel, meant: str) -> None:
    """A request without this field that has one much like it. Raises InvalidRequest.

    For fields that may be left out, where others that are not known pass.
    """
    if written := near(meant, schema.model_extra or ()):
        raise InvalidRequest(f"{written}: there is no such field; did you mean {meant}?", param=written)


def stop_list(stop: str | list[str] | None) -> list[str] | None:
    """`stop` as a list; one text may stand alone."""
    return [stop] if isinstance(stop, str) else stop


def fold_seed(seed: int | None) -> int | None:
    """A seed that the engine can hold (31 bits); the same seed always gives the same one."""
    return None if seed is None else seed % 2**31

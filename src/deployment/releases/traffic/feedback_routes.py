"""Where callers say how good an answer was."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from deployment.access import AdminRoute, Authenticator, Needs, Permission, Principal
from deployment.releases.traffic.feedback import FeedbackService
from deployment.texts import Plain

_SCORES = {"up": 1.0, "down": 0.0}


class FeedbackIn(BaseModel):
    """A vote on an answer."""

    model_config = ConfigDict(extra="forbid")

    request_id: str = Field(
        pattern=r"^[A-Za-z0-9._:-]{1,128}$", description="X-Request-Id of the answer.", examples=["3f2a…"]
    )
    score: Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)] | Literal["up", "down"] = Field(
        description="0 (bad) to 1 (good), or up or down."
    )
    release: str | None = Field(None, max_length=170, description="The release that answered; checked where given.")
    comment: Plain = Field("", max_length=2000)


class FeedbackOut(BaseModel):
    """What became of it."""

    status: Literal["recorded", "pending"] = Field(
        description="pending (202): another gateway gave the answer and takes the vote within seconds."
    )
    release: str | None


def feedback_routes(service: FeedbackService, authenticator: Authenticator) -> APIRouter:
    """`/feedback`."""
    router = APIRouter(tags=["Ramsey"], route_class=AdminRoute)
    caller = Depends(Needs(Permission.INFERENCE, authenticator))

    @router.post("/feedback", status_code=201, summary="Say how good an answer was")
    async def give(body: FeedbackIn, response: Response, caller: Annotated[Principal, caller]) -> FeedbackOut:
        """Once for each answer of the caller's own tenant, lately given. 404 for any other, 409 for a second vote."""
        score = _SCORES[body.score] if isinstance(body.score, str) else body.score
        given = await service.give(caller, body.request_id, score, body.comment, body.release)
        response.status_code = 201 if given.status == "recorded" else 202
        return FeedbackOut.model_validate({"status": given.status, "release": given.release})

    return router

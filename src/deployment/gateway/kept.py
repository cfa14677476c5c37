"""A conversation that its tenant asked to keep. Others cost nothing."""

from collections.abc import Awaitable
from typing import Any

from deployment.gateway.inference import Inference
from deployment.ollama_client import Done, Event, Take
from deployment.privacy import Keeper
from deployment.telemetry import RequestRecord

_MOST_TEXT = 200_000  # characters of an answer that are kept


class Kept:
    """Gathers what is to be kept of one generation."""

    def __init__(self, keeper: Keeper, inference: Inference, tenant: str, subject: str) -> None:
        self._keeper, self._tenant, self._subject = keeper, tenant, subject
        self._began = keeper.moment()
        body = inference.body
        self._content: dict[str, Any] = {
            name: body[name] for name in ("system", "prompt", "messages") if body.get(name)
        }
        self._texts: list[str] = []
        self._chars = 0

    def over(self, take: Take) -> Take:
        """The same taker; the texts that it takes are kept, as far as there is room."""

        def keep(event: Event) -> Awaitable[None] | None:
            if not isinstance(event, Done) and self._chars < _MOST_TEXT:
                self._texts.append(event.text)
                self._chars += len(event.text)
            return take(event)

        return keep

    def succeeded(self, record: RequestRecord) -> None:
        """The whole answer was given."""
        self._keeper.note(
            tenant=self._tenant,
            subject=self._subject,
            request_id=record.request_id,
            model=record.model or "",
            release=record.release or "",
            began=self._began,
            content={**self._content, "answer": "".join(self._texts)[:_MOST_TEXT]},
        )

"""What became of requests, as the judge wants to know it."""

from datetime import datetime
from typing import NamedTuple


class Outcome(NamedTuple):
    """One request that a release answered, or failed to answer. Times in milliseconds."""

    at: float
    """Arrival, epoch seconds."""
    candidate: bool
    """Answered by the candidate, else by the stable side."""
    weight: float
    """The probability of the candidate at arrival."""
    failed: bool
    ttft_ms: float | None
    """None when it failed before a token, or a model load was part of it."""
    token_ms: float | None
    """Mean time per output token after the first."""
    node_class: str = ""
    """Label `hardware` of the node: like is compared with like."""
    length: int = 0
    """log2 bucket of the prompt's characters."""
    cluster: str | None = None
    """Short hash of the sticky session or key: one cluster is one sample."""


class ShadowSample(NamedTuple):
    """One request that was also asked of the shadowed release."""

    at: float
    equal: bool | None
    """Whether both answers are the same text; None where they need not be (sampled), or one failed."""
    failed: bool
    """The shadowed release gave no answer."""
    ttft_ms: float | None
    """The shadowed release's; None when it failed, or a model load was part of it."""
    main_ttft_ms: float | None
    """The release's that the caller was answered by."""
    token_ms: float | None
    main_token_ms: float | None


class OutcomeBatch(NamedTuple):
    """What one gateway wrote down at once."""

    seq: int
    gateway: str
    flushed_at: datetime
    outcomes: list[Outcome]
    lost: int = 0
    """Outcomes that it had to forget since its batch before: the database was away for too long. A gap."""
    shadows: list[ShadowSample] = []  # noqa: RUF012 - never changed

"""Releases, and which of them answers."""

from pathlib import Path

from pydantic import Field

from deployment.settings.section import Seconds, Section


class ReleasesSettings(Section):
    """Where releases are kept, and what may judge them."""

    folder: Path | None = Field(
        None,
        description="Where the weights of releases are kept, each under its SHA-256; by default `releases` in the data "
        "directory. Several gateways should share it.",
    )
    max_bytes: int = Field(
        200 * 1024**3, ge=1024, description="Largest file of weights that may be uploaded or kept, in bytes."
    )
    keep: int = Field(
        3, ge=1, le=100, description="Releases of a model that stay on the nodes beside those with traffic, the newest."
    )
    stall_seconds: Seconds = Field(
        60.0,
        description="How long an upload to a node or the gateway, or a step of making a release on a node (and 1 s "
        "more for each 20 MB of it), may stand still, in seconds.",
    )
    questions: Path | None = Field(
        None,
        description="Questions with known answers, by which releases are evaluated, one JSON object a line; by default "
        "the eval.jsonl beside the Modelfile, where there is one.",
    )
    webhook_hosts: tuple[str, ...] = Field(
        (), description="Hosts that webhooks of gates may call, for instance ci.example.com; none by default."
    )
    gates_folder: Path | None = Field(
        None, description="Folder of the executables that may be gates; without it there are none."
    )


class TrafficSettings(Section):
    """How requests are watched while their traffic is divided among releases."""

    silent_seconds: Seconds = Field(
        30.0,
        description="In a rollout, a stream without a token for so long counts as failed, in seconds; an answer in "
        "one piece counts after `engine.first_token_timeout`, if that is longer.",
    )
    shadow_concurrency: int = Field(4, ge=1, le=256, description="Requests mirrored to a release at the same time.")
    feedback_entries: int = Field(
        50_000, ge=100, le=1_000_000, description="Latest answers that callers can vote on, in this process."
    )

"""How a model's traffic is divided among its releases, and what makes such a division right. Pure."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from deployment.errors import InvalidRequest

SETTINGS = "settings"
"""Who set a split that only says what the settings' Modelfile says."""

MOST_SHARES, MOST_PINS, MOST_LABELS = 16, 1000, 16
_SUM_SLACK = 1e-6
_MODEL = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,79}")
_TAG = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,79}")
_TEXT_LIMIT, _REASON_LIMIT = 200, 1000


class Sticky(StrEnum):
    """Who always gets the same release while weights stay or only grow."""

    NONE = "none"
    SESSION = "session"
    """The same `X-Session-Id`."""
    KEY = "key"
    """The same key, or subject of a token."""


class PinKind(StrEnum):
    """By what a request is recognised that always goes to one release."""

    HEADER = "header"
    """The value of `X-Ramsey-Release-Pin`."""
    KEY = "key"
    """The key's public id, or the subject of a token."""
    TENANT = "tenant"


@dataclass(frozen=True, slots=True)
class Pin:
    """Requests of one kind that always go to one release."""

    kind: PinKind
    value: str
    release: str


@dataclass(frozen=True, slots=True)
class Share:
    """One release's part of a model's traffic."""

    release: str
    """`ramsey-model:v1.1`."""
    weight: float
    """0 to 1; 0 = kept warm on its nodes without traffic."""
    nodes: Mapping[str, str] = field(default_factory=dict)
    """Labels of the nodes that shall hold it; empty = all."""


@dataclass(frozen=True, slots=True)
class Shadow:
    """A part of the requests is also asked of this release; its answers are compared and thrown away."""

    release: str
    share: float
    """0 to 1, above 0."""


@dataclass(frozen=True, slots=True)
class Split:
    """Which releases answer for a model. The weights of its shares sum to 1."""

    model: str
    shares: tuple[Share, ...]
    pins: tuple[Pin, ...] = ()
    sticky: Sticky = Sticky.NONE
    salt: str = ""
    """Of the draw of sticky callers: the rollout's id, so that each rollout draws anew."""
    shadow: Shadow | None = None
    candidate: str | None = None
    """The release under judgement while a rollout runs; the others are the stable side."""
    rollout: str | None = None
    """The rollout that outcomes belong to; None = outcomes are not recorded."""
    version: int = 0
    """Raised by every change of any split; set by the store."""
    set_by: str = SETTINGS
    reason: str = ""
    set_at: datetime | None = None
    """Set by the store."""

    @property
    def main(self) -> str:
        """The release with most of the traffic."""
        return max(self.shares, key=lambda share: share.weight).release

    @property
    def releases(self) -> tuple[str, ...]:
        """Every release that has a share, those without traffic too."""
        return tuple(share.release for share in self.shares)

    @property
    def callable(self) -> frozenset[str]:
        """The releases that any caller of the model may ask for by their tag: with traffic, or pinned."""
        return frozenset(share.release for share in self.shares if share.weight > 0) | {
            pin.release for pin in self.pins
        }

    def weight(self, release: str) -> float:
        """The release's part of the traffic; 0 where it has none."""
        return sum(share.weight for share in self.shares if share.release == release)


def single(model: str, release: str, *, set_by: str = SETTINGS, reason: str = "") -> Split:
    """All traffic to one release."""
    return Split(model, (Share(release, 1.0),), set_by=set_by, reason=reason)


def check(split: Split) -> None:
    """Raise InvalidRequest, naming the field, unless the split makes sense in itself."""
    if not _MODEL.fullmatch(split.model):
        raise _wrong("model", f"{_short(split.model)} is no name of a model", "Write it in lower case, without a tag.")
    _check_shares(split)
    _check_pins(split)
    held = set(split.releases)
    if split.shadow is not None:
        if split.shadow.release not in held:
            raise _absent("shadow.release", split.shadow.release)
        if not 0 < split.shadow.share <= 1:
            raise _wrong("shadow.share", f"{split.shadow.share} is not above 0 and at most 1")
    if split.candidate is not None and split.candidate not in held:
        raise _absent("candidate", split.candidate)
    for name, text, limit in (
        ("salt", split.salt, _TEXT_LIMIT),
        ("rollout", split.rollout or "", _TEXT_LIMIT),
        ("set_by", split.set_by, _TEXT_LIMIT),
        ("reason", split.reason, _REASON_LIMIT),
    ):
        if len(text) > limit or not (text.isprintable() or name == "reason"):
            raise _wrong(name, f"it is longer than {limit} characters, or holds control characters")


def _check_shares(split: Split) -> None:
    if not 0 < len(split.shares) <= MOST_SHARES:
        raise _wrong("shares", f"{len(split.shares)} are named; between 1 and {MOST_SHARES} make sense")
    seen = set()
    for share in split.shares:
        model, _, tag = share.release.partition(":")
        if model != split.model or not _TAG.fullmatch(tag) or tag == "latest":
            raise _wrong(
                "shares.release",
                f"{_short(share.release)} is no release of {split.model}",
                f"Name it with its version: {split.model}:v1.1.",
            )
        if share.release in seen:
            raise _wrong("shares.release", f"{share.release} is named twice")
        seen.add(share.release)
        if not (math.isfinite(share.weight) and 0 <= share.weight <= 1):
            raise _wrong("shares.weight", f"{share.weight} for {share.release} is not between 0 and 1")
        if len(share.nodes) > MOST_LABELS or any(len(k) > 64 or len(v) > 64 for k, v in share.nodes.items()):
            raise _wrong("shares.nodes", f"at most {MOST_LABELS} labels of 64 characters are allowed")
    total = math.fsum(share.weight for share in split.shares)
    if abs(total - 1) > _SUM_SLACK:
        raise _wrong("shares.weight", f"the weights sum to {total:g}, not to 1")


def _check_pins(split: Split) -> None:
    if len(split.pins) > MOST_PINS:
        raise _wrong("pins", f"{len(split.pins)} are named; at most {MOST_PINS} are allowed")
    seen = set()
    for pin in split.pins:
        if not 0 < len(pin.value) <= _TEXT_LIMIT or not pin.value.isprintable():
            raise _wrong("pins.value", f"it needs 1 to {_TEXT_LIMIT} printable characters")
        if pin.release not in split.releases:
            raise _absent("pins.release", pin.release)
        if (pin.kind, pin.value) in seen:
            raise _wrong("pins", f"the {pin.kind.value} {_short(pin.value)} is pinned twice")
        seen.add((pin.kind, pin.value))


def _absent(param: str, release: str) -> InvalidRequest:
    return _wrong(
        param, f"{_short(release)} has no share", "Give it one; weight 0 keeps it on the nodes without traffic."
    )


def _wrong(param: str, what: str, hint: str | None = None) -> InvalidRequest:
    return InvalidRequest(f"{param}: {what}.", hint=hint, param=param)


def _short(text: str) -> str:
    return repr(text[:80])

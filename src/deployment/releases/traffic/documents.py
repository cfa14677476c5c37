"""A split as a JSON object, in the database and in files."""

from typing import Any

from deployment.releases.traffic.model import Pin, PinKind, Shadow, Share, Split, Sticky


def to_document(split: Split) -> dict[str, Any]:
    """What a split says, without what the store itself keeps of it (version, who, when, why)."""
    return {
        "shares": [
            {"release": share.release, "weight": share.weight, "nodes": dict(share.nodes)} for share in split.shares
        ],
        "pins": [{"kind": pin.kind.value, "value": pin.value, "release": pin.release} for pin in split.pins],
        "sticky": split.sticky.value,
        "salt": split.salt,
        "shadow": {"release": split.shadow.release, "share": split.shadow.share} if split.shadow else None,
        "candidate": split.candidate,
        "rollout": split.rollout,
    }


def from_document(model: str, document: dict[str, Any]) -> Split:
    """The split that `to_document` told. What a newer version of the code added is left out."""
    shadow = document.get("shadow")
    return Split(
        model,
        tuple(Share(each["release"], float(each["weight"]), each.get("nodes") or {}) for each in document["shares"]),
        pins=tuple(Pin(PinKind(each["kind"]), each["value"], each["release"]) for each in document.get("pins") or ()),
        sticky=Sticky(document.get("sticky") or Sticky.NONE),
        salt=document.get("salt") or "",
        shadow=Shadow(shadow["release"], float(shadow["share"])) if shadow else None,
        candidate=document.get("candidate"),
        rollout=document.get("rollout"),
    )

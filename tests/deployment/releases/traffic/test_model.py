from dataclasses import replace
from typing import Any

import pytest

from deployment.errors import InvalidRequest
from deployment.releases.traffic import Pin, PinKind, Shadow, Share, Split, check, single
from deployment.releases.traffic.documents import from_document, to_document

OLD, NEW = "ramsey-model:v1.0", "ramsey-model:v1.1"
SPLIT = Split(
    "ramsey-model",
    (Share(OLD, 0.9, {"colour": "blue"}), Share(NEW, 0.1)),
    pins=(Pin(PinKind.HEADER, "beta", NEW), Pin(PinKind.TENANT, "acme", OLD)),
    shadow=Shadow(NEW, 0.5),
    candidate=NEW,
    rollout="r-1",
    salt="r-1",
)


def test_a_split_survives_its_document() -> None:
    check(SPLIT)
    assert from_document("ramsey-model", to_document(SPLIT)) == SPLIT
    assert from_document("m", {"shares": [{"release": "m:v1", "weight": 1}], "later": 5}) == single("m", "m:v1")


def test_what_is_said_of_a_split() -> None:
    assert SPLIT.main == OLD
    assert SPLIT.releases == (OLD, NEW)
    assert SPLIT.weight(NEW) == 0.1
    assert SPLIT.weight("ramsey-model:v9") == 0
    assert single("ramsey-model", OLD).callable == {OLD}
    warm = Split("ramsey-model", (Share(OLD, 1), Share(NEW, 0)))
    assert warm.callable == {OLD}
    assert replace(warm, pins=(Pin(PinKind.KEY, "k", NEW),)).callable == {OLD, NEW}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": "Ramsey"}, "model: 'Ramsey' is no name"),
        ({"shares": ()}, "shares: 0 are named"),
        ({"shares": (Share(OLD, 0.5), Share(NEW, 0.6))}, "the weights sum to 1.1"),
        ({"shares": (Share(OLD, 0.0),)}, "the weights sum to 0"),
        ({"shares": (Share(OLD, 1.5), Share(NEW, -0.5))}, "1.5 for ramsey-model:v1.0 is not between"),
        ({"shares": (Share(OLD, float("nan")), Share(NEW, 1))}, "nan for ramsey-model:v1.0"),
        ({"shares": (Share(OLD, 0.5), Share(OLD, 0.5), Share(NEW, 0))}, "named twice"),
        ({"shares": (Share("other:v1", 1.0),)}, "'other:v1' is no release of ramsey-model"),
        ({"shares": (Share("ramsey-model:latest", 1.0),)}, "is no release of ramsey-model"),
        ({"shares": (Share("ramsey-model", 1.0),)}, "is no release of ramsey-model"),
        ({"pins": (Pin(PinKind.KEY, "k", "ramsey-model:v9"),)}, "pins.release: 'ramsey-model:v9' has no share"),
        ({"pins": (Pin(PinKind.KEY, "k", OLD), Pin(PinKind.KEY, "k", NEW))}, "the key 'k' is pinned twice"),
        ({"pins": (Pin(PinKind.KEY, "", OLD),)}, "pins.value"),
        ({"shadow": Shadow("ramsey-model:v9", 1)}, "shadow.release"),
        ({"shadow": Shadow(NEW, 0)}, "shadow.share: 0 is not"),
        ({"candidate": "ramsey-model:v9"}, "candidate"),
        ({"reason": "x" * 1001}, "reason: it is longer than 1000"),
        ({"rollout": "a\nb"}, "rollout"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_field(change: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check(replace(SPLIT, **change))
    assert told in refused.value.message
    assert refused.value.param is not None

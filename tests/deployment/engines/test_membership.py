"""Who belongs to the pool, over restarts."""

from pathlib import Path

import pytest

from deployment.engines.membership import Membership, MembershipFile
from deployment.engines.model import NodeSpec
from deployment.errors import ConfigurationError

A = NodeSpec("a", "http://a:1", 4)
B = NodeSpec("b", "http://b:1", 4, 2.0, {"region": "eu"}, source="admin")


def test_what_operators_do_stands_over_what_is_configured() -> None:
    start = Membership()
    assert list(start.with_added(B).members([A])) == ["a", "b"]
    assert list(start.without("a").members([A])) == []
    assert list(start.without("a").with_added(A).members([])) == ["a"]
    assert start.with_added(B).without("b") == start
    assert start.with_draining("a", True).without("a").draining == frozenset()
    assert start.with_draining("a", True).with_draining("a", False) == start


def test_it_survives_a_restart(tmp_path: Path) -> None:
    file = MembershipFile(tmp_path / "state" / "nodes.json")
    assert file.read() == Membership()
    changed = Membership().with_added(B).without("a").with_draining("b", True)
    file.write(changed)
    assert file.read() == changed
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["nodes.json"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"version": 9}',
        '{"version":1,"added":[{"x":1}],"removed":[],"draining":[]}',
        '{"version":1,"added":[{"name":"a","url":"http://a","slots":"many"}],"removed":[],"draining":[]}',
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "nodes.json").write_text(text)
    with pytest.raises(ConfigurationError, match=r"nodes\.json cannot be read"):
        MembershipFile(tmp_path / "nodes.json").read()

import asyncio
import json
import subprocess
import sys

import pytest
from tests.support.fake_node import FakeNode
from tests.support.serving import serving
from tests.support.stack import ROOT, clean_environment

from deployment.cli import traffic
from deployment.errors import ConfigurationError

OLD, NEW = "ramsey-model:v1.0", "ramsey-model:v1.1"


async def ramsey(url: str, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "deployment", "traffic", *words, "--url", url]
    return await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=60
    )


async def test_traffic_is_shown_and_changed() -> None:
    async with FakeNode(models=(OLD, NEW)) as node, serving(node.url) as (url, services):
        shown = await ramsey(url, "show")
        assert f"{NEW}  100 %" in shown.stdout
        assert "by the settings" in shown.stdout
        assert "1 gateway;" in shown.stdout
        words = ("v1.0=90%", "v1.1=10", "--sticky", "key", "--pin", "tenant:acme=v1.1", "--shadow", "v1.0=5")
        changed = await ramsey(url, "set", *words, "--reason", "a try")
        assert changed.returncode == 0, changed.stderr
        for told in (f"{OLD}  90 %", f"{NEW}  10 %", "tenant acme to", "sticky: by key", "5 % also to", "a try"):
            assert told in changed.stdout
        split = services.traffic.split("ramsey-model")
        assert split is not None
        assert (split.weight(NEW), split.reason) == (0.1, "a try")
        kept = await ramsey(url, "set", "--shadow", "none", "--unpin", "tenant:acme", "--json")
        told = json.loads(kept.stdout)
        assert (told["shadow"], told["pins"], told["sticky"]) == (None, [], "key")
        assert [share["weight"] for share in told["shares"]] == [0.9, 0.1]
        wrong = await ramsey(url, "set", "v1.0=90")
        assert (wrong.returncode, "sum to 0.9" in wrong.stderr) == (1, True)


@pytest.mark.parametrize("text", ["v1.1", "v1.1=", "=10", "v1.1=many", "v1.1=101", "v1.1=-1", "v1.1=nan"])
def test_a_part_that_is_none(text: str) -> None:
    with pytest.raises(ConfigurationError, match="write RELEASE=PERCENT"):
        traffic._part("m", text)


@pytest.mark.parametrize(
    ("added", "gone", "told"),
    [
        (["acme=v1"], [], "a pin begins with header, key or tenant"),
        (["tenant:acme"], [], "write KIND:VALUE=RELEASE"),
        (["planet:earth=v1"], [], "a pin begins with"),
        ([], ["key:k"], "there is no such pin"),
    ],
)
def test_a_pin_that_is_none(added: list[str], gone: list[str], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        traffic._pins("m", [], added, gone)

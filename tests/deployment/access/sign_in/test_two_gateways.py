"""Two gateways as processes over one database, behind a load balancer that asks them in turn."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.deployment.access.sign_in.conftest import SECRET, client_of
from tests.support.browser import ADDRESS, Browser
from tests.support.fake_node import FakeNode
from tests.support.stack import ROOT, clean_environment, free_port, wait_for

SESSION = "__Host-ramsey-session"
OURS = {"origin": ADDRESS, "sec-fetch-site": "same-origin"}


def start(folder: Path, name: str, variables: dict[str, str]) -> tuple["subprocess.Popen[bytes]", str, Path]:
    """A gateway, its URL and its log."""
    port, log = free_port(), folder / f"{name}.log"
    own = {"RAMSEY_DATA_DIR": str(folder / name), "RAMSEY_SERVER__PORT": str(port)}
    environment = clean_environment(**variables, **own)
    with log.open("wb") as output:
        command = [sys.executable, "src/deployment/api.py"]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    return process, f"http://127.0.0.1:{port}", log


@asynccontextmanager
async def gateways(folder: Path, database_url: str, engine_url: str, issuer: str) -> AsyncIterator[list[str]]:
    """Two processes; the client's secret lies in a file."""
    (folder / "secret").write_text(SECRET + "\n")
    provider = client_of(issuer, client_secret=f"file:{folder / 'secret'}", tenant_claim=None)
    variables = {
        "RAMSEY_PROFILE": "production",
        "RAMSEY_SERVER__PUBLIC_URL": ADDRESS,
        "RAMSEY_DATABASE__URL": database_url,
        "RAMSEY_ENGINE__HOST": engine_url,
        "RAMSEY_ENGINE__LAUNCH": "false",
        "RAMSEY_ACCESS__OIDC": json.dumps([provider]),
    }
    started = [start(folder, name, variables) for name in ("a", "b")]
    try:
        for process, url, log in started:
            await asyncio.to_thread(wait_for, url + "/health/live", process, log)
        yield [url for _, url, _ in started]
        for _, _, log in started:
            assert SECRET not in log.read_text()
    finally:
        for process, _, _ in started:
            process.send_signal(signal.SIGTERM)
        for process, _, _ in started:
            await asyncio.to_thread(process.wait, 30)


@pytest.fixture
async def behind(tmp_path: Path, database_url: str, issuer: str) -> AsyncIterator[list[str]]:
    async with FakeNode() as node, gateways(tmp_path, database_url, node.url, issuer) as urls:
        yield urls


async def test_what_one_gateway_begins_the_other_goes_on_with(behind: list[str]) -> None:
    async with Browser(*behind) as browser:
        for turn in range(4):
            page = await browser.sign_in("alice")
            assert "You are signed in" in page.text, f"turn {turn}: {page.text}"
            for _ in range(4):
                assert (await browser.who())["signed_in"]
            token = (await browser.who())["csrf_token"]
            out = await browser.http.post("/auth/logout", headers=OURS | {"x-csrf-token": token, "accept": "*/*"})
            assert out.json()["signed_out"] is True
            if turn % 2:
                await browser.http.get("/health/live")  # the next turn begins at the other gateway


async def test_a_session_that_ends_at_one_is_over_at_the_other(behind: list[str]) -> None:
    here, there = behind
    async with Browser(here) as browser, Browser(there) as thief:
        await browser.sign_in("alice")
        stolen = str(browser.cookie(SESSION))
        thief.http.cookies.set(SESSION, stolen, domain="llm.example", path="/")
        assert (await thief.who())["signed_in"], "the other gateway knows it at once"
        token = (await browser.who())["csrf_token"]
        await browser.http.post("/auth/logout", headers=OURS | {"x-csrf-token": token, "accept": "*/*"})
        async with asyncio.timeout(30):
            while (await thief.http.get("/auth/me")).status_code != 401:
                await asyncio.sleep(0.02)


async def test_made_up_cookies_do_not_keep_others_waiting(behind: list[str]) -> None:
    async with Browser(*behind) as browser, Browser(*behind) as attacker:
        await browser.sign_in("alice")

        async def flood(number: int) -> None:
            for turn in range(10):
                cookie = {"cookie": f"{SESSION}=made-up-{number}-{turn}", "accept": "*/*"}
                assert (await attacker.http.get("/auth/me", headers=cookie)).status_code == 401

        async with asyncio.timeout(60):
            floods = asyncio.gather(*(flood(number) for number in range(20)))
            for _ in range(20):
                assert (await browser.who())["signed_in"]
            await floods

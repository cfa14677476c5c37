"""The whole room, with a provider that is certified for OpenID Connect."""

import asyncio
import shlex
from pathlib import Path
from string import Template

import httpx
import pytest
from tests.support.certified_provider import AUDIENCE, certified_provider, client_credentials_token
from tests.support.fake_node import FakeNode
from tests.support.serving import serving
from tests.support.stack import ROOT

from deployment.access import LOCAL_OPERATOR, Access, Permission, Principal
from deployment.clock import SystemClock
from deployment.database import Database
from deployment.errors import Forbidden, ProviderUnavailable, Unauthenticated
from deployment.settings import load


def call(access: Access, token: str) -> Principal:
    headers = [(b"host", b"llm.example"), (b"authorization", f"Bearer {token}".encode())]
    return access.authenticator.authenticate({"client": ("203.0.113.9", 1), "headers": headers})


async def test_the_documented_way_of_a_service_works(tmp_path: Path) -> None:
    """The commands of docs/access.md, word by word, but for curl and jq: what they would send is sent."""
    text = (ROOT / "docs" / "access.md").read_text()
    block = text.partition("by client credentials:\n\n```\n")[2].partition("```")[0].replace("\\\n", " ")
    discovery, token, me = (line.partition("curl ")[2].partition(" | ")[0] for line in block.strip().splitlines())
    mapped = {"llm-users": "user"}
    async with certified_provider() as issuer, FakeNode() as node:
        provider = {"issuer": issuer, "audience": [AUDIENCE], "roles": [], "roles_claim": "groups", "role_map": mapped}
        async with (
            serving(node.url, profile="production", data_dir=tmp_path, access={"oidc": [provider]}) as (url, _),
            httpx.AsyncClient(timeout=60) as http,
        ):
            words = {"ISSUER": issuer, "CLIENT_ID": "batch", "CLIENT_SECRET": "a secret of the tests"}
            words |= {"AUDIENCE": AUDIENCE, "GATEWAY": url}
            words["TOKEN_ENDPOINT"] = (await curl(http, discovery, words)).json()["token_endpoint"]
            words["ACCESS_TOKEN"] = (await curl(http, token, words)).json()["access_token"]
            async with asyncio.timeout(30):
                while (answer := await curl(http, me, words)).status_code == 503:  # the keys are on their way
                    await asyncio.sleep(0.02)
            assert (answer.json()["name"], answer.json()["permissions"]) == ("batch", ["inference"])


async def curl(http: httpx.AsyncClient, command: str, variables: dict[str, str]) -> httpx.Response:
    """What curl would send for these words."""
    words = shlex.split(Template(command).substitute(variables).rstrip(")"))
    form, headers, user, url = {}, {}, None, ""
    while words:
        match words.pop(0):
            case "-s":
                pass
            case "-u":
                name, _, secret = words.pop(0).partition(":")
                user = (name, secret)
            case "-d":
                name, _, value = words.pop(0).partition("=")
                form[name] = value
            case "-H":
                name, _, value = words.pop(0).partition(": ")
                headers[name] = value
            case url:
                pass
    return await http.request("POST" if form else "GET", url, data=form or None, headers=headers, auth=user)


async def test_a_service_calls_with_its_client_credentials(tmp_path: Path) -> None:
    async with certified_provider() as issuer:
        provider = {
            "issuer": issuer,
            "audience": [AUDIENCE],
            "tenant_claim": "tenant",
            "roles": [],
            "roles_claim": "groups",
            "role_map": {"llm-users": "user"},
        }
        other = {"issuer": "https://idp.example", "audience": ["x"]}
        database = Database(f"sqlite:///{tmp_path}/ramsey.db")
        access = Access(load(access={"oidc": [provider]}), database, SystemClock())
        stranger = Access(load(access={"oidc": [other]}), database, SystemClock())
        async with access.running():
            token = await client_credentials_token(issuer, "inference")
            while True:
                try:
                    with pytest.raises(Forbidden, match="acme"):
                        call(access, token)  # its tenant is not there yet
                    break
                except ProviderUnavailable:
                    await asyncio.sleep(0.02)
            await access.service.create_tenant(LOCAL_OPERATOR, "acme", "Acme Ltd")
            caller = call(access, token)
            assert (caller.name, caller.tenant, set(caller.roles)) == ("batch", "acme", {"user"})
            assert caller.permissions == {Permission.INFERENCE}
            assert access.problems == []
            with pytest.raises(Unauthenticated, match="issuer"):
                call(stranger, token)
        await database.close()

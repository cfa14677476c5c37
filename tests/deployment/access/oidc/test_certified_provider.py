"""The whole room, with a provider that is certified for OpenID Connect."""

import asyncio
from pathlib import Path

import pytest
from tests.support.certified_provider import AUDIENCE, certified_provider, client_credentials_token

from deployment.access import LOCAL_OPERATOR, Access, Permission, Principal
from deployment.clock import SystemClock
from deployment.database import Database
from deployment.errors import Forbidden, ProviderUnavailable, Unauthenticated
from deployment.settings import load


def call(access: Access, token: str) -> Principal:
    headers = [(b"host", b"llm.example"), (b"authorization", f"Bearer {token}".encode())]
    return access.authenticator.authenticate({"client": ("203.0.113.9", 1), "headers": headers})


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

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from tests.support.browser import ADDRESS
from tests.support.certified_provider import certified_provider
from tests.support.fake_node import FakeNode
from tests.support.serving import serving

from deployment.access import LOCAL_OPERATOR
from deployment.app import Services

SECRET = "another: secret/ of+the tests"
Serve = Callable[..., AbstractAsyncContextManager[tuple[str, Services]]]


def client_of(issuer: str, **changes: Any) -> dict[str, Any]:
    """The settings of a provider with whom people sign in; None takes one away."""
    settings = {
        "issuer": issuer,
        "name": "acme-sso",
        "client_id": "console",
        "client_secret": SECRET,
        "scopes": ["openid", "llm"],
        "tenant_claim": "tenant",
        "roles": [],
        "roles_claim": "groups",
        "role_map": {"llm-users": "user", "llm-admins": "admin"},
        **changes,
    }
    return {name: value for name, value in settings.items() if value is not None}


@pytest.fixture
async def issuer() -> AsyncIterator[str]:
    """A certified provider that runs for real."""
    async with certified_provider() as issuer:
        yield issuer


@pytest.fixture
async def node() -> AsyncIterator[FakeNode]:
    """The engine behind the gateways."""
    async with FakeNode() as node:
        yield node


@pytest.fixture
async def serve(database_url: str, node: FakeNode) -> Serve:
    """Gateways in production, over one database of each kind, with a tenant acme."""

    @asynccontextmanager
    async def gateway(*providers: dict[str, Any], **sections: Any) -> AsyncIterator[tuple[str, Services]]:
        access = {"oidc": list(providers), **sections.pop("access", {})}
        settings = {
            "profile": "production",
            "database": {"url": database_url},
            "server": {"public_url": ADDRESS},
            "access": access,
            **sections,
        }
        async with serving(node.url, **settings) as (url, services):
            if not any(tenant.id == "acme" for tenant in await services.access.service.tenants(LOCAL_OPERATOR)):
                await services.access.service.create_tenant(LOCAL_OPERATOR, "acme", "Acme Ltd")
            yield url, services

    return gateway

import asyncio
import base64
import hmac
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from joserfc.jwk import RSAKey
from tests.support.held_clock import HeldClock
from tests.support.token_issuer import AUDIENCE, TokenIssuer, ec_key, ed_key, secret_key, token_issuer

from deployment.access import Authenticator, Permission, Principal
from deployment.access.directory import Directory
from deployment.access.model import Changes, Role, Tenant
from deployment.access.oidc import Provider, TokenAuthenticator
from deployment.errors import Forbidden, ProviderUnavailable, RamseyError, Unauthenticated
from deployment.settings import AccessSettings, OidcProvider, Profile


@dataclass
class World:
    issuer: TokenIssuer
    provider: Provider
    directory: Directory
    clock: HeldClock
    authenticator: Authenticator

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(self.clock.now().timestamp())
        claims = {"iss": self.issuer.url, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 600}
        return {name: value for name, value in (claims | changes).items() if value is not None}

    def call(self, token: str, header: str = "authorization") -> Principal:
        value = f"Bearer {token}" if header == "authorization" else token
        headers = [(b"host", b"llm.example"), (header.encode(), value.encode("latin-1"))]
        return self.authenticator.authenticate({"client": ("203.0.113.9", 1), "headers": headers})

    def refusal(self, token: str, error: type[RamseyError] = Unauthenticated) -> str:
        with pytest.raises(error) as caught:
            self.call(token)
        assert token not in caught.value.message
        return caught.value.message


def provide(world_clock: HeldClock, directory: Directory, issuer: TokenIssuer, **settings: Any) -> World:
    chosen = OidcProvider.model_validate({"issuer": issuer.url, "audience": (AUDIENCE,), **settings})
    provider = Provider(chosen, world_clock)
    tokens = TokenAuthenticator([provider], directory, world_clock)
    access = AccessSettings(oidc=(chosen,))
    return World(
        issuer,
        provider,
        directory,
        world_clock,
        Authenticator(access, Profile.PRODUCTION, world_clock, directory, tokens),
    )


def known(clock: HeldClock, disabled: bool = False) -> Changes:
    tenants = (
        Tenant("default", "Default", clock.now(), None),
        Tenant("acme", "Acme", clock.now(), clock.now() if disabled else None),
    )
    return Changes(2 if disabled else 1, (), tenants, (Role("billing", frozenset({Permission.USAGE_READ})),), ())


@pytest.fixture
async def issuer() -> AsyncIterator[TokenIssuer]:
    async with token_issuer() as issuer:
        yield issuer


@pytest.fixture
async def make(issuer: TokenIssuer) -> Callable[..., World]:
    clock, directory = HeldClock(), Directory()
    directory.apply(known(clock))
    return lambda **settings: provide(clock, directory, issuer, **settings)


@pytest.fixture
async def world(make: Callable[..., World]) -> World:
    world = make()
    await world.provider.refresh()
    return world


def test_a_valid_token_is_its_subject(world: World) -> None:
    token = world.issuer.sign(world.claims())
    principal = world.call(token)
    assert (principal.name, principal.tenant, set(principal.roles)) == ("alice", "default", {"user"})
    assert Permission.INFERENCE in principal.permissions
    assert principal.key_hash is not None
    assert world.call(token, "x-api-key") is principal
    other = world.call(world.issuer.sign(world.claims(sub="bob")))
    assert other.id != principal.id


@pytest.mark.parametrize(("algorithm", "key"), [("ES256", ec_key), ("EdDSA", ed_key)])
async def test_other_algorithms_of_the_list(world: World, algorithm: str, key: Callable[[], Any]) -> None:
    world.issuer.add("other", key())
    await world.provider.refresh()
    assert world.call(world.issuer.sign(world.claims(), "other", algorithm)).name == "alice"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": 1}, "expired"),
        ({"exp": None}, "exp"),
        ({"exp": "never"}, "exp"),
        ({"nbf": 99999999999}, "not yet valid"),
        ({"iat": 99999999999}, "future"),
        ({"aud": "https://other.example"}, "aud"),
        ({"aud": None}, "aud"),
        ({"aud": []}, "aud"),
        ({"iss": "https://evil.example"}, "issuer"),
        ({"iss": None}, "issuer"),
        ({"iss": ["x"]}, "issuer"),
        ({"sub": None}, "sub"),
        ({"sub": 5}, "sub"),
    ],
)
def test_claims_that_are_wrong(world: World, changes: dict[str, Any], reason: str) -> None:
    assert reason in world.refusal(world.issuer.sign(world.claims(**changes)))


def test_clocks_may_differ_a_little(world: World) -> None:
    now = int(world.clock.now().timestamp())
    world.call(world.issuer.sign(world.claims(exp=now - 59, nbf=now + 59, iat=now + 59)))
    world.refusal(world.issuer.sign(world.claims(exp=now - 61)))


def segment(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def test_unsigned_tokens_are_refused(world: World) -> None:
    body = segment(world.claims())
    for algorithm in ("none", "None", "NONE", "", None, 5, ["RS256"]):
        assert "algorithm" in world.refusal(f"{segment({'alg': algorithm, 'kid': 'rsa'})}.{body}.")
    assert "signature" in world.refusal(f"{segment({'alg': 'RS256', 'kid': 'rsa'})}.{body}.").lower()


def test_a_public_key_cannot_be_used_as_a_secret(world: World) -> None:
    public = world.issuer.keys["rsa"]
    assert isinstance(public, RSAKey)
    for secret in (public.as_pem(private=False), json.dumps(world.issuer.published[0]).encode()):
        for algorithm, digest in (("HS256", "sha256"), ("HS512", "sha512")):
            signed = f"{segment({'alg': algorithm, 'kid': 'rsa'})}.{segment(world.claims())}"
            forged = base64.urlsafe_b64encode(hmac.digest(secret, signed.encode(), digest)).decode().rstrip("=")
            assert "algorithm" in world.refusal(f"{signed}.{forged}")


def test_another_key_or_a_changed_claim_does_not_pass(world: World) -> None:
    stranger = RSAKey.generate_key(2048)
    world.refusal(world.issuer.sign(world.claims(), stranger, kid="rsa"))
    header, _, signature = world.issuer.sign(world.claims()).split(".")
    world.refusal(f"{header}.{segment(world.claims(sub='admin'))}.{signature}")
    embedded = world.issuer.sign(world.claims(), stranger, jwk=stranger.as_dict(private=False))
    world.call(world.issuer.sign(world.claims()))
    world.refusal(embedded)


def test_an_algorithm_outside_the_list_is_refused_though_its_key_is_known(make: Callable[..., World]) -> None:
    world = make(algorithms=("ES256",))
    assert "algorithm" in world.refusal(world.issuer.sign(world.claims()))


@pytest.mark.parametrize("header", [{"typ": "logout+jwt"}, {"typ": 5}, {"crit": ["exp"]}])
def test_what_is_no_access_token_is_refused(world: World, header: dict[str, Any]) -> None:
    body = segment(world.claims())
    world.refusal(f"{segment({'alg': 'RS256', 'kid': 'rsa', **header})}.{body}.AAAA")


@pytest.mark.parametrize("token", ["a.b.c", "..", "e30.e30.", "W10.W10.x", "é.é.é", "A" * 20_000 + ".b.c"])
def test_rubbish_is_refused(world: World, token: str) -> None:
    world.refusal(token)


def test_an_expired_token_is_not_remembered(world: World) -> None:
    token = world.issuer.sign(world.claims())
    world.call(token)
    world.clock.advance(659)
    world.call(token)
    world.clock.advance(2)
    assert "expired" in world.refusal(token)


async def test_keys_rotate(world: World) -> None:
    old = world.issuer.sign(world.claims())
    world.call(old)
    world.issuer.add("new", ec_key())
    fresh = world.issuer.sign(world.claims(), "new", "ES256")
    assert "no such signing key" in world.refusal(fresh)  # we looked just now
    world.clock.advance(11)
    assert "not here yet" in world.refusal(fresh, ProviderUnavailable)
    await world.provider.refresh()
    assert world.call(fresh).name == "alice"
    world.issuer.published.pop(0)
    world.clock.advance(11)
    await world.provider.refresh()
    world.refusal(old)


async def test_an_unknown_key_makes_the_provider_be_asked(world: World) -> None:
    async with world.provider.running():
        while world.issuer.asked < 2:
            await asyncio.sleep(0.01)
        world.issuer.add("new", ec_key())
        world.clock.advance(11)
        fresh = world.issuer.sign(world.claims(), "new", "ES256")
        world.refusal(fresh, ProviderUnavailable)
        while world.issuer.asked < 3 or "new" not in world.provider.keys:
            await asyncio.sleep(0.01)
        assert world.call(fresh).name == "alice"


async def test_known_keys_go_on_for_a_stated_time_when_the_provider_is_away(world: World) -> None:
    world.issuer.down = True
    await world.provider.refresh()
    assert "503" in (world.provider.problem or "")
    world.clock.advance(3600)
    token = world.issuer.sign(world.claims())
    assert world.call(token).name == "alice"
    world.clock.advance(1)
    world.refusal(token, ProviderUnavailable)


async def test_before_its_keys_are_here_a_token_is_told_to_wait(make: Callable[..., World]) -> None:
    world = make()
    world.refusal(world.issuer.sign(world.claims()), ProviderUnavailable)


async def test_a_provider_that_calls_itself_otherwise_is_not_believed(make: Callable[..., World]) -> None:
    world = make()
    world.issuer.says_it_is = "https://evil.example"
    await world.provider.refresh()
    assert "calls itself" in (world.provider.problem or "")
    assert not world.provider.keys


async def test_secret_and_unreadable_keys_that_are_published_are_left_out(world: World) -> None:
    secret = secret_key(b"x" * 32)
    world.issuer.published += [
        {**secret.as_dict(private=True), "kid": "oct"},
        {"kty": "RSA", "kid": "bad"},
        {"kty": "?"},
    ]
    await world.provider.refresh()
    assert set(world.provider.keys) == {"rsa"}


def test_claims_are_mapped_to_tenant_and_roles(make: Callable[..., World]) -> None:
    settings = {
        "tenant_claim": "org.id",
        "roles": (),
        "roles_claim": "realm_access.roles",
        "role_map": {"llm-ops": "operator", "accounts": "billing"},
    }
    world = make(**settings)
    world.provider.keys = {"rsa": world.issuer.keys["rsa"]}
    world.provider.fetched_at = world.clock.monotonic()

    def call(**claims: Any) -> Principal:
        return world.call(world.issuer.sign(world.claims(**claims)))

    caller = call(org={"id": "acme"}, realm_access={"roles": ["llm-ops", "accounts", "admin"]})
    assert (caller.tenant, set(caller.roles)) == ("acme", {"operator", "billing"})
    assert Permission.KEYS_WRITE not in caller.permissions
    assert Permission.NODES_WRITE in caller.permissions
    assert call(org={"id": "acme"}, realm_access={"roles": "accounts"}).permissions == {Permission.USAGE_READ}
    assert call(org={"id": "acme"}).permissions == frozenset()
    narrowed = call(org={"id": "acme"}, realm_access={"roles": ["llm-ops"]}, scope="openid inference jobs")
    assert narrowed.permissions == {Permission.INFERENCE, Permission.JOBS}
    for org in ({"id": "nobody"}, {"id": ["acme"]}, {}, "acme"):
        with pytest.raises(Forbidden):
            call(org=org)


def test_a_disabled_tenant_is_kept_out_at_once(make: Callable[..., World]) -> None:
    world = make(tenant="acme")
    world.provider.keys = {"rsa": world.issuer.keys["rsa"]}
    world.provider.fetched_at = world.clock.monotonic()
    token = world.issuer.sign(world.claims())
    assert world.call(token).tenant == "acme"
    world.directory.apply(known(world.clock, disabled=True))
    world.refusal(token, Forbidden)


def test_a_name_cannot_write_into_the_log(world: World) -> None:
    name = world.call(world.issuer.sign(world.claims(sub="x\n\x1b[2Jadmin" + "y" * 99))).name
    assert name.isprintable()
    assert len(name) == 64


@pytest.mark.parametrize(
    "issuer_url", ["http://idp.example", "ftp://x", "idp.example", "http://localhost.evil.example/"]
)
def test_an_issuer_without_https_is_refused(issuer_url: str) -> None:
    with pytest.raises(ValueError, match="issuer"):
        OidcProvider(issuer=issuer_url, audience=("x",))

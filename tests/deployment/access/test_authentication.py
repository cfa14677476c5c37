from typing import Any

import pytest

from deployment.access import Authenticator, Permission, Principal, generate_key
from deployment.clock import SystemClock
from deployment.errors import Forbidden, Unauthenticated
from deployment.settings import AccessSettings, ApiKey, Profile

NEW = generate_key()
KNOWN = ApiKey(name="web shop", sha256=NEW.sha256, tenant="acme")


def authenticator(profile: Profile = Profile.DEVELOPMENT, **access: Any) -> Authenticator:
    return Authenticator(AccessSettings(keys=(KNOWN,), **access), profile, SystemClock())


def connection(
    *headers: tuple[str, str], client: str | None = "127.0.0.1", host: str | None = "localhost:8000"
) -> dict[str, Any]:
    pairs = ([("host", host)] if host is not None else []) + list(headers)
    return {
        "type": "http",
        "client": (client, 50123) if client is not None else None,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in pairs],
    }


def refusal(scope: dict[str, Any], profile: Profile = Profile.DEVELOPMENT) -> Unauthenticated:
    with pytest.raises(Unauthenticated) as caught:
        authenticator(profile).authenticate(scope)
    assert caught.value.status == 401
    assert NEW.key not in str(caught.value) + str(caught.value.hint)
    return caught.value


@pytest.mark.parametrize(
    "header",
    [
        ("authorization", f"Bearer {NEW.key}"),
        ("authorization", f"bearer   {NEW.key} "),
        ("x-api-key", NEW.key),
        ("api-key", NEW.key),
    ],
)
def test_a_known_key_is_its_principal_wherever_clients_put_it(header: tuple[str, str]) -> None:
    scope = connection(header, client="203.0.113.9", host="llm.example.com")
    for profile in Profile:
        principal = authenticator(profile).authenticate(scope)
        assert (principal.name, principal.tenant, principal.anonymous) == ("web shop", "acme", False)
        assert principal.key_hash == NEW.sha256[:12]
        assert NEW.key not in repr(principal)


def test_the_same_key_twice_is_one_and_two_different_are_refused() -> None:
    twice = connection(("authorization", f"Bearer {NEW.key}"), ("x-api-key", NEW.key))
    assert authenticator().authenticate(twice).name == "web shop"
    other = connection(("authorization", f"Bearer {NEW.key}"), ("x-api-key", generate_key().key))
    assert "two different keys" in refusal(other).message


@pytest.mark.parametrize("profile", list(Profile))
@pytest.mark.parametrize("client", ["127.0.0.1", "203.0.113.9"])
@pytest.mark.parametrize(
    "key",
    ["secret", generate_key().key, NEW.sha256, "é\xff", "x" * 100_000],
    ids=["short", "unknown", "hash", "not-ascii", "long"],  # the same in every process of a parallel run
)
def test_a_wrong_key_is_refused_also_from_this_machine(profile: Profile, client: str, key: str) -> None:
    error = refusal(connection(("authorization", f"Bearer {key}"), client=client), profile)
    assert "not known" in error.message
    assert "ramsey keys create" in (error.hint or "")


def test_a_misspelt_key_is_told_from_an_unknown_one() -> None:
    assert "checksum" in refusal(connection(("x-api-key", NEW.key[:-1]))).message


def test_another_scheme_is_refused_with_the_right_one() -> None:
    error = refusal(connection(("authorization", "Basic dXNlcjpwYXNz")))
    assert "Authorization: Bearer" in (error.hint or "")


@pytest.mark.parametrize("client", ["127.0.0.1", "127.8.0.1", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000"])
def test_in_development_a_program_on_this_machine_needs_no_key(client: str, host: str) -> None:
    principal = authenticator().authenticate(connection(client=client, host=host))
    assert principal.anonymous
    assert principal.tenant == "default"
    assert principal.key_hash is None


@pytest.mark.parametrize("placeholder", ["ollama", "EMPTY", "none", ""])
def test_a_placeholder_that_clients_insist_on_counts_as_no_key(placeholder: str) -> None:
    scope = connection(("authorization", f"Bearer {placeholder}"))
    assert authenticator().authenticate(scope).anonymous
    refusal(scope, Profile.PRODUCTION)


def test_who_calls_without_a_key_is_told_to_send_one() -> None:
    nobody = authenticator().authenticate(connection())
    with pytest.raises(Forbidden, match="Without a key, nobody has the permission keys:write") as caught:
        nobody.require(Permission.KEYS_WRITE)
    assert "ramsey keys create --name NAME --role admin" in (caught.value.hint or "")


@pytest.mark.parametrize("profile", [Profile.STAGING, Profile.PRODUCTION])
def test_outside_development_nobody_is_anonymous(profile: Profile) -> None:
    error = refusal(connection(), profile)
    assert "Authorization: Bearer" in (error.hint or "")


@pytest.mark.parametrize(
    "scope",
    [
        connection(client="192.168.1.7"),
        connection(client="::ffff:192.168.1.7"),
        connection(client=None),
        connection(client="testclient"),
        connection(host="evil.example"),
        connection(host="localhost.evil.example"),
        connection(host="127.0.0.1.evil.example"),
        connection(host="localhost@evil.example"),
        connection(host="[::1"),
        connection(host=""),
        connection(host=None),
        connection(("host", "evil.example")),
        connection(("origin", "https://evil.example")),
        connection(("origin", "null")),
        connection(("origin", "https://localhost.evil.example")),
        connection(("forwarded", "for=127.0.0.1")),
        connection(("x-forwarded-for", "127.0.0.1")),
        connection(("x-forwarded-proto", "https")),
        connection(("x-real-ip", "127.0.0.1")),
        connection(("via", "1.1 proxy")),
    ],
    ids=lambda scope: str((scope["client"], scope["headers"])),
)
def test_whatever_may_come_from_elsewhere_needs_a_key(scope: dict[str, Any]) -> None:
    assert refusal(scope).message == "A key is needed."


def test_pages_of_this_machine_and_of_permitted_sites_may_call() -> None:
    for origin in ("http://localhost:3000", "http://127.0.0.1:8000", "http://[::1]"):
        assert authenticator().authenticate(connection(("origin", origin))).anonymous
    permitted = authenticator(cors_origins=("https://app.example",))
    assert permitted.authenticate(connection(("origin", "https://app.example"))).anonymous
    anybody = authenticator(cors_origins=("*",))
    with pytest.raises(Unauthenticated):
        anybody.authenticate(connection(("origin", "https://evil.example")))


def test_a_principal_cannot_be_changed() -> None:
    principal: Principal = authenticator().authenticate(connection())
    with pytest.raises(AttributeError):
        principal.tenant = "other"  # type: ignore[misc]


@pytest.mark.parametrize("repeated", [{"name": "web shop"}, {"sha256": NEW.sha256}])
def test_two_keys_of_one_name_or_hash_are_refused(repeated: dict[str, str]) -> None:
    second = ApiKey(**{"name": "other", "sha256": generate_key().sha256} | repeated)
    with pytest.raises(ValueError, match="two keys have the"):
        AccessSettings(keys=(KNOWN, second))

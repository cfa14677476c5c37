"""Tokens that somebody forged, stole or took from elsewhere."""

import base64
import hmac
import json
import time
from typing import Any

import pytest
from joserfc.jwk import RSAKey
from tests.support.attacked import Target
from tests.support.token_issuer import AUDIENCE, ec_key


def claims(target: Target, **changes: Any) -> dict[str, Any]:
    now = int(time.time())
    told = {"iss": target.issuer.url, "aud": AUDIENCE, "sub": "mallory", "iat": now, "exp": now + 600} | changes
    return {name: value for name, value in told.items() if value is not None}


def segment(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def refused(target: Target, token: str) -> str:
    """Why. The token itself is never repeated, neither to the caller nor in the log."""
    answer = target.ask("GET", "/models", token)
    assert answer.status_code == 401, answer.text
    assert answer.headers["www-authenticate"] == "Bearer"
    assert token not in answer.text
    assert not any(token in line for line in target.lines())
    return str(answer.json()["error"]["message"])


@pytest.fixture(scope="module", autouse=True)
def _a_good_token_is_taken(target: Target) -> None:
    end = time.monotonic() + 30
    token = target.issuer.sign(claims(target))
    while (answer := target.ask("GET", "/models", token)).status_code == 503 and time.monotonic() < end:
        time.sleep(0.1)  # its keys are fetched beside the start
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("algorithm", ["none", "None", "nOnE", "", None])
def test_an_unsigned_token(target: Target, algorithm: str | None) -> None:
    head = segment({"alg": algorithm, "kid": "rsa"})
    assert "algorithm" in refused(target, f"{head}.{segment(claims(target))}.")


@pytest.mark.parametrize("secret", ["pem", "jwk", "empty"])
def test_a_public_key_used_as_a_secret(target: Target, secret: str) -> None:
    key = target.issuer.keys["rsa"]
    assert isinstance(key, RSAKey)
    known = {"pem": key.as_pem(private=False), "jwk": json.dumps(target.issuer.published[0]).encode(), "empty": b""}
    signed = f"{segment({'alg': 'HS256', 'kid': 'rsa'})}.{segment(claims(target))}"
    forged = base64.urlsafe_b64encode(hmac.digest(known[secret], signed.encode(), "sha256")).decode().rstrip("=")
    assert "algorithm" in refused(target, f"{signed}.{forged}")


def test_a_token_of_somebody_elses_key_under_our_key_id(target: Target) -> None:
    assert refused(target, target.issuer.sign(claims(target), RSAKey.generate_key(2048), kid="rsa"))


def test_a_key_that_comes_with_the_token(target: Target) -> None:
    own = RSAKey.generate_key(2048)
    public = own.as_dict(private=False)
    assert refused(target, target.issuer.sign(claims(target), own, jwk=public, kid="rsa"))
    for kid in ({}, {"kid": "mine"}):
        answer = target.ask("GET", "/models", target.issuer.sign(claims(target), own, jwk=public, **kid))
        assert answer.status_code in {401, 503}, "503: it may be a new key, which is looked for once in 10 s"


@pytest.mark.parametrize("header", ["jku", "x5u"])
def test_a_key_at_an_address_that_the_token_names(target: Target, header: str) -> None:
    own, asked = RSAKey.generate_key(2048), target.issuer.asked
    token = target.issuer.sign(claims(target), own, kid="rsa", **{header: f"{target.issuer.url}/evil"})
    assert refused(target, token)
    assert "/evil" not in target.issuer.paths
    assert target.issuer.asked == asked


@pytest.mark.parametrize("kid", ["../../../dev/null", "x' UNION SELECT 'secret", "file:///etc/passwd", "a\nb", "", "0"])
def test_a_key_id_that_is_a_path_or_a_statement(target: Target, kid: str) -> None:
    head = segment({"alg": "RS256", "kid": kid})
    answer = target.ask("GET", "/models", f"{head}.{segment(claims(target))}.AAAA")
    assert answer.status_code in {401, 503}, "503: it may be a new key, which is looked for once in 10 s"


def test_a_changed_claim_under_an_old_signature(target: Target) -> None:
    head, _, signature = target.issuer.sign(claims(target)).split(".")
    assert refused(target, f"{head}.{segment(claims(target, sub='admin', roles=['admin']))}.{signature}")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": 1}, "expired"),
        ({"exp": None}, "exp"),
        ({"nbf": 2**40}, "not yet valid"),
        ({"aud": "https://other.example"}, "aud"),
        ({"aud": None}, "aud"),
        ({"iss": "https://evil.example"}, "issuer"),
    ],
)
def test_an_expired_early_or_foreign_token(target: Target, changes: dict[str, Any], reason: str) -> None:
    assert reason in refused(target, target.issuer.sign(claims(target, **changes)))


@pytest.mark.parametrize(
    "changes",
    [{"aud": "the-console"}, {"nonce": "n", "at_hash": "x", "aud": [AUDIENCE, "the-console"]}, {"typ": "ID"}],
    ids=["for-another", "with-its-hash", "said-so"],
)
def test_an_id_token_used_as_an_access_token(target: Target, changes: dict[str, Any]) -> None:
    assert refused(target, target.issuer.sign(claims(target, **changes)))


@pytest.mark.parametrize("kind", ["logout+jwt", "dpop+jwt", "secevent+jwt"])
def test_a_token_of_another_kind(target: Target, kind: str) -> None:
    assert "not an access token" in refused(target, target.issuer.sign(claims(target), typ=kind))


def test_a_role_that_only_its_issuer_knows(target: Target) -> None:
    token = target.issuer.sign(claims(target, roles=["admin", "operator"], tenant="acme", scope="keys:write"))
    assert target.ask("GET", "/admin/keys", token).status_code == 403
    assert target.ask("GET", "/metrics", token).status_code == 403


def test_a_token_replayed_after_its_key_was_withdrawn(target: Target) -> None:
    target.issuer.add("stolen", ec_key())
    stolen = target.issuer.sign(claims(target), "stolen", "ES256")
    taken(target, stolen)
    target.issuer.withdraw("stolen")
    target.issuer.add("fresh", ec_key())
    taken(target, target.issuer.sign(claims(target), "fresh", "ES256"))
    assert "signing key" in refused(target, stolen)


def taken(target: Target, token: str) -> None:
    """Until it is: a new key is looked for when a token names it, once in 10 s."""
    end = time.monotonic() + 60
    while (answer := target.ask("GET", "/models", token)).status_code != 200:
        assert time.monotonic() < end, answer.text
        time.sleep(0.2)

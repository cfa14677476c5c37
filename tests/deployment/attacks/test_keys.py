"""API keys: misspelt, stolen, revoked, or sent where they don't belong."""

import hashlib
import random
import string
import time
from datetime import UTC, datetime, timedelta

import pytest
from tests.support.attacked import Target, status_of

from deployment.access import generate_key


def test_a_guess_of_the_right_form(target: Target) -> None:
    for _ in range(20):
        answer = target.ask("GET", "/models", generate_key().key)
        assert answer.status_code == 401
        assert "not known" in answer.text


def test_a_typing_mistake_is_told_by_its_checksum(target: Target) -> None:
    made, dice = target.key(), random.Random(7)
    for _ in range(20):
        at = dice.randrange(3, len(made))
        wrong = made[:at] + dice.choice([c for c in string.ascii_letters if c != made[at]]) + made[at + 1 :]
        answer = target.ask("GET", "/models", wrong)
        assert answer.status_code == 401
        assert "misspelt or cut" in answer.text
        assert wrong not in answer.text


@pytest.mark.parametrize("path", ["/models?api_key={}", "/models?key={}", "/models?access_token={}", "/models/{}"])
def test_a_key_in_the_url_counts_for_nothing_and_is_not_logged(target: Target, path: str) -> None:
    assert target.ask("GET", path.format(target.user)).status_code in {401, 404}
    assert not any(target.user in line for line in target.lines())


@pytest.mark.parametrize("header", ["cookie", "proxy-authorization", "x-forwarded-authorization", "x_api_key"])
def test_a_key_in_another_header_counts_for_nothing(target: Target, header: str) -> None:
    value = f"key={target.user}" if header == "cookie" else f"Bearer {target.user}"
    assert target.ask("GET", "/models", headers={header: value}).status_code == 401


def test_a_key_in_a_trailer_or_the_body_counts_for_nothing(target: Target) -> None:
    trailer = (
        b"POST /admin/keys HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
        b'Transfer-Encoding: chunked\r\n\r\nc\r\n{"name":"x"}\r\n0\r\nX-API-Key: ' + target.admin.encode() + b"\r\n\r\n"
    )
    assert status_of(target.send(trailer)) == 401
    assert target.ask("POST", "/generate", json={"prompt": "x", "api_key": target.user}).status_code == 401


def test_the_hash_of_a_key_is_no_key(target: Target) -> None:
    assert target.ask("GET", "/models", hashlib.sha256(target.user.encode()).hexdigest()).status_code == 401


def test_two_different_credentials_at_once(target: Target) -> None:
    both = {"authorization": f"Bearer {target.user}", "x-api-key": target.admin}
    answer = target.ask("GET", "/admin/keys", headers=both)
    assert answer.status_code == 401
    assert "two different keys" in answer.text
    twice = target.signed("GET", "/models", b"X-API-Key: " + target.admin.encode())
    assert status_of(target.send(twice)) == 401


@pytest.mark.parametrize("value", ["Basic {}", "Digest {}", "Bearer", "Bearer {} x", "{}"])
def test_another_scheme_than_bearer(target: Target, value: str) -> None:
    assert target.ask("GET", "/models", headers={"authorization": value.format(target.user)}).status_code == 401


@pytest.mark.parametrize("key", ["' OR 1=1 --", "rk_" + "A" * 10_000, "%00", "é" * 50, "../../etc/passwd"])
def test_rubbish_for_a_key(target: Target, key: str) -> None:
    answer = target.ask("GET", "/models", headers={"x-api-key": key.encode("latin-1")})
    assert answer.status_code == 401


def test_a_revoked_key_replayed(target: Target) -> None:
    made = target.made("/admin/keys", {"name": "stolen"})
    assert target.ask("GET", "/models", made["key"]).status_code == 200
    assert target.ask("POST", f"/admin/keys/{made['public_id']}/revoke", target.admin).status_code == 200
    assert target.ask("GET", "/models", made["key"]).status_code == 401


def test_an_expired_key_replayed(target: Target) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=3)
    made = target.made("/admin/keys", {"name": "short", "expires_at": soon.isoformat()})
    end = time.monotonic() + 30
    while (answer := target.ask("GET", "/models", made["key"])).status_code == 200 and time.monotonic() < end:
        time.sleep(0.1)
    assert answer.status_code == 401
    assert "expired" in answer.text
    assert datetime.now(UTC) >= soon


def test_a_key_of_a_disabled_tenant(target: Target) -> None:
    target.made("/admin/tenants", {"id": "closed", "name": "Closed"})
    key = target.key(tenant="closed")
    assert target.ask("GET", "/models", key).status_code == 200
    assert target.ask("POST", "/admin/tenants/closed/disable", target.admin).status_code == 204
    assert target.ask("GET", "/models", key).status_code == 401


def test_a_key_outside_of_its_networks(target: Target) -> None:
    key = target.key(networks=["192.0.2.0/24"])
    for claimed in ({}, {"x-forwarded-for": "192.0.2.1"}, {"forwarded": "for=192.0.2.1"}, {"x-real-ip": "192.0.2.1"}):
        assert target.ask("GET", "/models", key, headers=claimed).status_code == 403


def test_a_key_is_shown_once_and_never_again(target: Target) -> None:
    made = target.made("/admin/keys", {"name": "secret"})
    secret = made["key"]
    for path in (f"/admin/keys/{made['public_id']}", "/admin/keys?limit=1000", "/admin/audit?limit=1000"):
        assert secret not in target.ask("GET", path, target.admin).text
    target.ask("POST", "/generate", secret, json={"prompt": "x"})
    assert not any(secret in line or secret.split("_")[2] in line for line in target.lines())


def test_the_time_of_a_comparison_tells_nothing_of_a_key(target: Target) -> None:
    """No key is compared with another: a key is looked up by its SHA-256, whose bits its sender cannot choose towards
    a stored one. What is tested is that premise: keys that share all but their last character share no hash prefix."""
    made = target.key()
    near = made[:-1] + ("A" if made[-1] != "A" else "B")
    ours, theirs = (hashlib.sha256(key.encode()).hexdigest() for key in (made, near))
    assert sum(a == b for a, b in zip(ours, theirs, strict=True)) < 32
    assert target.ask("GET", "/models", near).status_code == 401

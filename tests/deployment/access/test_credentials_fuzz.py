"""Whatever a request's headers say of its caller, it is a principal or a documented refusal, and is read once."""

import base64
import contextlib
from typing import Any

import orjson
import pytest
from cryptography.fernet import Fernet
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from deployment.access import Authenticator, generate_key
from deployment.access.credentials import is_local, presented_credential
from deployment.access.directory import Directory
from deployment.access.keys import public_id_of
from deployment.access.oidc.provider import Provider
from deployment.access.oidc.tokens import TokenAuthenticator
from deployment.access.sessions.cookies import cookie_of
from deployment.access.sign_in.pending import Pending, local_path, unseal
from deployment.clock import SystemClock
from deployment.errors import InvalidRequest, ProviderUnavailable, SignInFailed, Unauthenticated
from deployment.settings import OidcProvider, Profile, load

steady = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
ISSUER = "https://issuer.example"
NAMES = [b"authorization", b"x-api-key", b"api-key", b"host", b"origin", b"forwarded", b"via", b"cookie", b"x-other"]
KEY = generate_key()
_words = st.sampled_from(
    [b"Bearer ", b"bearer\t", b"Basic ", b"Bearer", b" ", KEY.key.encode(), b"rk_", b"a.b.c", b"ollama", b"localhost"]
)
_value = st.binary(max_size=40) | st.lists(_words, max_size=4).map(b"".join)
_headers = st.lists(st.tuples(st.sampled_from(NAMES), _value), max_size=6)


def authenticator(profile: Profile) -> Authenticator:
    clock = SystemClock()
    provider = Provider(OidcProvider(issuer=ISSUER, audience=("ramsey",)), clock)
    access = load(access={"keys": [{"name": "k", "sha256": KEY.sha256, "roles": ["user"]}]}).access
    return Authenticator(access, profile, clock, None, TokenAuthenticator([provider], Directory(), clock))


PRODUCTION, DEVELOPMENT = authenticator(Profile.PRODUCTION), authenticator(Profile.DEVELOPMENT)


@steady
@given(_headers, st.sampled_from(["127.0.0.1", "::1", "203.0.113.9", "testclient", ""]))
def test_any_headers_are_a_caller_or_a_refusal(headers: list[tuple[bytes, bytes]], address: str) -> None:
    scope: dict[str, Any] = {"type": "http", "method": "GET", "client": (address, 1), "headers": headers, "state": {}}
    named = KEY.key.encode() in [presented for presented in [_presented(headers)] if presented]
    for asked, anonymous in ((PRODUCTION, False), (DEVELOPMENT, is_local(scope))):
        try:
            caller = asked.authenticate(scope)
        except (Unauthenticated, ProviderUnavailable) as error:
            assert KEY.key not in error.message + (error.hint or "")  # noqa: PT017 - it may be refused or not
        else:
            assert named or (anonymous and caller.anonymous)


def _presented(headers: list[tuple[bytes, bytes]]) -> bytes | None:
    with contextlib.suppress(Unauthenticated):
        return presented_credential(headers)
    return None


@given(st.sampled_from(["Bearer", "bearer", "BEARER"]), st.sampled_from([" ", "  ", "\t"]), st.booleans())
def test_every_writing_of_a_bearer_header_is_read(scheme: str, space: str, end: bool) -> None:
    header = f" {scheme} {space if space != chr(9) else ''}{KEY.key}{space if end else ''}".encode()
    assert presented_credential([(b"authorization", header)]) == KEY.key.encode()


@given(st.integers(0, len(KEY.key) - 1), st.characters(codec="latin-1"))
def test_a_key_with_one_wrong_character_is_none(at: int, other: str) -> None:
    wrong = KEY.key[:at] + other + KEY.key[at + 1 :]
    assert (public_id_of(wrong) is None) == (wrong != KEY.key)


@given(st.text() | st.from_regex(r"rk_[0-9A-Za-z]{10}_[0-9A-Za-z]{38}", fullmatch=True))
def test_no_text_that_nobody_made_is_a_key(text: str) -> None:
    assert public_id_of(text) is None
    assert public_id_of(generate_key().key + text[:1]) is None or not text


@given(st.binary(max_size=60), st.binary(max_size=60), st.sampled_from([b";", b"; ", b" ;"]))
def test_a_cookie_is_found_among_others(value: bytes, other: bytes, between: bytes) -> None:
    value, other = value.replace(b";", b"").strip(), other.replace(b";", b"")
    headers = [(b"cookie", between.join([b"x" + other, b"session=" + value, b"y=1"]))]
    assert cookie_of(headers, b"session") == value
    assert cookie_of([(b"cookie", value + other)], b"another-name") is None


# --- tokens -----------------------------------------------------------------------------------------------


def encoded(value: Any) -> bytes:
    raw = value if isinstance(value, bytes) else orjson.dumps(value)
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "kid"]), inner, max_size=2),
    max_leaves=5,
)
_head = st.dictionaries(st.sampled_from(["alg", "typ", "kid", "crit", "jku", "jwk", "b64", "zip"]), _json) | _json
_body = st.dictionaries(st.sampled_from(["iss", "sub", "aud", "exp", "nbf", "iat", "tenant"]), _json) | _json


@steady
@example(head={"alg": "none"}, body={"iss": ISSUER}, signature=b"")
@example(head={"alg": "RS256", "kid": ["x"]}, body={"iss": ISSUER}, signature=b"x")
@example(head={"alg": ["RS256"]}, body={"iss": ISSUER}, signature=b"x")
@given(_head, _body | st.binary(max_size=20), st.binary(max_size=40))
def test_no_unsigned_token_is_anybody(head: Any, body: Any, signature: bytes) -> None:
    if isinstance(body, dict):
        body = {"iss": ISSUER, **body}
    token = b".".join([encoded(head), encoded(body), encoded(signature)])
    with pytest.raises((Unauthenticated, ProviderUnavailable)):
        PRODUCTION.authenticate({"headers": [(b"authorization", b"Bearer " + token)], "client": ("203.0.113.9", 1)})


@steady
@given(st.binary(max_size=200).map(lambda raw: raw.replace(b".", b"")), st.binary(max_size=50), st.binary(max_size=50))
def test_no_rubbish_is_a_token(head: bytes, body: bytes, signature: bytes) -> None:
    token = b".".join([head, body, signature])
    with pytest.raises((Unauthenticated, ProviderUnavailable)):
        PRODUCTION.authenticate({"headers": [(b"x-api-key", b"x" + token)], "client": ("203.0.113.9", 1)})


# --- signing in -------------------------------------------------------------------------------------------

SEAL = Fernet(Fernet.generate_key())


@given(st.text() | st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_no_cookie_that_is_not_ours_is_a_sign_in(cookie: str) -> None:
    with pytest.raises(SignInFailed):
        unseal(cookie, SEAL, 0.0, "again")


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=50))
def test_what_a_browser_keeps_comes_back_as_it_was(rest: str) -> None:
    try:
        pending = Pending.begin(ISSUER, "/" + rest)
    except InvalidRequest:
        return
    assert unseal(pending.seal(SEAL, 1000.0), SEAL, 1000.0, "again") == pending


@given(st.text(st.sampled_from("/\\:@.?#a%\t\n ")))
def test_no_path_leads_elsewhere(path: str) -> None:
    try:
        taken = local_path(path)
    except InvalidRequest:
        return
    assert taken == path
    assert taken.startswith("/")
    assert not taken.startswith(("//", "/\\"))
    assert not set(taken) & set("\t\n\r \\")


@given(st.text(st.sampled_from("0123456789.:[]abcdef%@/localhost")) | st.text())
def test_no_host_breaks_the_question_whether_it_is_local(host: str) -> None:
    headers = [(b"host", host.encode("utf-8", "replace"))]
    assert is_local({"client": ("127.0.0.1", 1), "headers": headers, "state": {}}) in (True, False)
    assert not is_local({"client": ("203.0.113.9", 1), "headers": headers, "state": {}})

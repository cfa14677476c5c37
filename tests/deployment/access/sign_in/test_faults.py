"""What can go wrong while somebody signs in: each is told with the next step, nothing hangs, nothing is a 500."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from aiohttp import web
from cryptography.fernet import Fernet
from tests.deployment.access.sign_in.conftest import Serve, client_of
from tests.support.browser import ADDRESS, Browser
from tests.support.certified_provider import certified_provider
from tests.support.token_issuer import TokenIssuer, ec_key, secret_key, token_issuer

from deployment.access import LOCAL_OPERATOR
from deployment.access.sessions import SessionStore
from deployment.app import Services

PAGE = {"accept": "text/html"}
COOKIE = "__Host-ramsey-sign-in"
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@dataclass
class Visit:
    """A browser that was sent to a provider which does as a test wants."""

    browser: Browser
    issuer: TokenIssuer
    services: Services
    state: str = ""
    nonce: str = ""

    async def begin(self, query: str = "") -> None:
        answer = await self.browser.http.get(f"/auth/login{query}", follow_redirects=False)
        assert answer.status_code == 303, answer.text
        asked = parse_qs(urlsplit(answer.headers["location"]).query)
        self.state, self.nonce = asked["state"][0], asked["nonce"][0]

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        claims = {
            "iss": self.issuer.url,
            "aud": "console",
            "sub": "alice",
            "iat": now,
            "exp": now + 600,
            "nonce": self.nonce,
            "tenant": "acme",
            "groups": ["llm-users"],
        }
        return {name: value for name, value in (claims | changes).items() if value is not None}

    def gives(self, id_token: str | None, **more: Any) -> None:
        """What the provider answers to the code."""
        tokens = {"access_token": "opaque", "token_type": "Bearer", "id_token": id_token, **more}
        self.issuer.token_reply = lambda: web.json_response(tokens)

    async def come_back(self, headers: Mapping[str, str] = PAGE, /, **answer: str) -> httpx.Response:
        """The provider sends the browser back."""
        query: dict[str, str] = {"state": self.state, "code": "a-code", **answer}
        return await self.browser.http.get(
            "/auth/callback", params=query, headers=dict(headers), follow_redirects=False
        )

    async def refused(self, status: int, word: str, **answer: str) -> str:
        """It comes back and is not signed in: a page that says why, and what to do."""
        page = await self.come_back(**answer)
        assert page.status_code == status, page.text
        assert page.headers["content-type"].startswith("text/html")
        assert word in page.text
        assert 'href="/auth"' in page.text
        assert self.browser.cookie("__Host-ramsey-session") is None
        told = (await self.come_back({"accept": "application/json"}, **answer)).json()["error"]
        assert word in told["message"]
        assert told["hint"]
        return str(told["code"])

    async def recorded(self, word: str) -> bool:
        """Whether the record has a refusal with this word."""
        await self.services.access.refusals.flush()
        entries = await self.services.access.service.audit(LOCAL_OPERATOR)
        return any(entry.action == "access.refused" and word in entry.detail for entry in entries)


@pytest.fixture
async def visit(serve: Serve) -> AsyncIterator[Visit]:
    async with (
        token_issuer() as issuer,
        serve(client_of(issuer.url)) as (url, services),
        Browser(url) as browser,
    ):
        visit = Visit(browser, issuer, services)
        await visit.begin()
        yield visit


async def test_the_stand_in_signs_people_in_as_long_as_nothing_is_wrong(visit: Visit) -> None:
    visit.gives(visit.issuer.sign(visit.claims()))
    answer = await visit.come_back()
    assert (answer.status_code, answer.headers["location"]) == (303, f"{ADDRESS}/auth")
    assert (await visit.browser.who())["roles"] == ["user"]
    form = visit.issuer.forms[-1]
    assert (form["grant_type"], form["redirect_uri"]) == ("authorization_code", f"{ADDRESS}/auth/callback")
    assert len(form["code_verifier"]) >= 43


@pytest.mark.parametrize(
    ("error", "status", "word"),
    [
        ("access_denied", 403, "did not let you in"),
        ("server_error", 503, "cannot sign anybody in"),
        ("temporarily_unavailable", 503, "cannot sign anybody in"),
        ("invalid_scope", 400, "invalid_scope"),
        ("<script>alert(1)</script>", 400, "an error"),
    ],
)
async def test_the_provider_says_no(visit: Visit, error: str, status: int, word: str) -> None:
    await visit.refused(status, word, error=error, error_description="<b>call 555</b>")
    page = await visit.come_back(error=error)
    assert "<script" not in page.text
    if status != 503:
        assert await visit.recorded(word)


async def test_an_answer_to_no_question_of_this_browser(visit: Visit) -> None:
    assert await visit.refused(400, "belongs to another sign-in", state="of-somebody-else") == "sign_in_failed"
    assert await visit.refused(400, "belongs to another sign-in", state="") == "sign_in_failed"
    assert await visit.recorded("belongs to another sign-in")
    sealed = visit.browser.cookie(COOKIE)
    assert sealed is not None
    visit.browser.http.cookies.clear()
    await visit.refused(400, "No sign-in was begun in this browser")
    for broken in ("x", sealed[:-4] + "AAAA", sealed[:40], ""):
        page = await visit.come_back(PAGE | {"cookie": f"{COOKIE}={broken}"})
        assert page.status_code == 400
        assert ("cannot be read" if broken else "No sign-in was begun") in page.text
    assert visit.issuer.forms == [], "the provider was not bothered"


async def test_a_sign_in_that_took_too_long(visit: Visit) -> None:
    key = Fernet(await SessionStore(visit.services.database).sealing_key())
    sealed = str(visit.browser.cookie(COOKIE))
    old = key.encrypt_at_time(key.decrypt(sealed), int(time.time()) - 601).decode()
    visit.browser.http.cookies.set(COOKIE, old, domain="llm.example", path="/")
    await visit.refused(400, "longer than 10 minutes")


async def test_an_answer_of_another_provider_than_was_asked(visit: Visit) -> None:
    await visit.refused(400, "another provider", iss="https://evil.example")
    assert visit.issuer.forms == []


async def test_an_answer_without_a_code(visit: Visit) -> None:
    await visit.refused(400, "no code", code="")


async def test_an_id_token_that_is_not_for_us_now(visit: Visit) -> None:
    stranger = ec_key()
    public = json.dumps(visit.issuer.published[0]).encode()
    sign, claims = visit.issuer.sign, visit.claims
    refused = [
        (sign(claims(nonce="of-another-sign-in")), "another sign-in"),
        (sign(claims(nonce=None)), "another sign-in"),
        (sign(claims(aud="another-client")), "aud"),
        (sign(claims(aud=["console", "another-client"])), "another client"),
        (sign(claims(azp="another-client")), "another client"),
        (sign(claims(iss="https://evil.example")), "iss"),
        (sign(claims(exp=1)), "expired"),
        (sign(claims(exp=None)), "exp"),
        (sign(claims(sub=None)), "sub"),
        (sign(claims(), stranger, "ES256", kid="unknown"), "no such signing key"),
        (sign(claims(), secret_key(public), "HS256"), "algorithm"),
        ("e30.e30.", "algorithm"),
        ("not a token", "cannot be read"),
        ("x" * 20_000, "too long"),
    ]
    for token, word in refused:
        visit.gives(token)
        await visit.refused(400, word)
    both = claims(aud=["console", "another-client"], azp="console")
    visit.gives(sign(both))
    assert (await visit.come_back()).status_code == 303


async def test_a_provider_that_signs_with_a_new_key_is_asked_for_it(visit: Visit) -> None:
    provider = visit.services.access._providers[0]
    provider.looked_at = None  # as ten seconds later
    visit.issuer.add("new", ec_key())
    visit.gives(visit.issuer.sign(visit.claims(), "new", "ES256"))
    assert (await visit.come_back()).status_code == 303


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"tenant": "nobody-s"}, "no enabled tenant nobody-s"),
        ({"tenant": None}, "names no tenant"),
        ({"groups": []}, "has no role here"),
        ({"groups": ["admin", "operator"]}, "has no role here"),
    ],
)
async def test_somebody_without_a_tenant_or_a_role(visit: Visit, changes: dict[str, Any], word: str) -> None:
    visit.issuer.tells = {"userinfo_endpoint": None}
    await visit.services.access._providers[0].refresh()
    visit.gives(visit.issuer.sign(visit.claims(**changes)))
    assert await visit.refused(403, word) == "forbidden"
    assert await visit.recorded(word)


async def test_a_provider_that_does_not_take_us_for_its_client(visit: Visit) -> None:
    visit.issuer.token_reply = lambda: web.json_response({"error": "invalid_client"}, status=401)
    assert await visit.refused(502, "refuses this service: invalid_client") == "identity_provider_refused"
    visit.issuer.token_reply = lambda: web.json_response({"error": ["<b>"]}, status=400)
    await visit.refused(502, "refuses this service: an error")
    visit.gives(None)
    await visit.refused(502, "gave no ID token")


async def test_a_provider_that_answers_nonsense(visit: Visit) -> None:
    nonsense: list[tuple[int, bytes]] = [
        (500, b"{}"),
        (503, b"<html>"),
        (429, b"{}"),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b""),
        (302, b""),
        (200, b'{"id_token": "' + b"x" * 2_000_000 + b'"}'),
    ]
    for status, body in nonsense:
        headers = {"location": f"{visit.issuer.url}/elsewhere"} if status == 302 else {}
        visit.issuer.token_reply = lambda status=status, body=body, headers=headers: web.Response(  # type: ignore[misc]
            status=status, body=body, headers=headers
        )
        assert await visit.refused(503, "does not answer as it should") == "identity_provider_unavailable"


async def test_a_provider_that_is_silent_does_not_hold_anybody_up(
    visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    import aiohttp

    monkeypatch.setattr("deployment.access.sign_in.tokens._TIMEOUT", aiohttp.ClientTimeout(total=0.2))
    silent = asyncio.Event()
    visit.issuer.wait = silent
    try:
        await visit.refused(503, "does not answer as it should")
    finally:
        silent.set()


async def test_what_the_provider_tells_of_somebody_else(visit: Visit) -> None:
    short = visit.claims(tenant=None, groups=None)
    visit.gives(visit.issuer.sign(short))
    visit.issuer.userinfo = {"sub": "somebody-else", "tenant": "acme", "groups": ["llm-admins"]}
    await visit.refused(400, "somebody else")
    visit.issuer.userinfo = None
    await visit.refused(503, "does not answer as it should")
    visit.issuer.userinfo = {"sub": "alice", "tenant": "acme", "groups": ["llm-admins"], "nonce": "x", "aud": "y"}
    assert (await visit.come_back()).status_code == 303
    assert (await visit.browser.who())["roles"] == ["admin"]


@pytest.mark.parametrize(("padding", "hinted"), [(0, True), (4000, False)])
async def test_signing_out_fits_into_the_headers_that_proxies_take(visit: Visit, padding: int, hinted: bool) -> None:
    visit.issuer.tells = {"end_session_endpoint": f"{visit.issuer.url}/end"}
    await visit.services.access._providers[0].refresh()
    visit.gives(visit.issuer.sign(visit.claims(padding="x" * padding)))
    await visit.come_back()
    token = (await visit.browser.who())["csrf_token"]
    headers = PAGE | {"origin": ADDRESS, "x-csrf-token": token}
    answer = await visit.browser.http.post("/auth/logout", headers=headers, follow_redirects=False)
    assert answer.headers["location"].startswith(f"{visit.issuer.url}/end?client_id=console")
    assert ("id_token_hint=" in answer.headers["location"]) is hinted
    assert sum(len(name) + len(value) + 4 for name, value in answer.headers.raw) < 4096


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example",
        "/\\evil.example",
        "\\/evil.example",
        "https://evil.example",
        "javascript:alert(1)",
        "evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        "/a\\b",
        "/a b",
        "/\u00e9",
        "",
        "/" + "a" * 1024,
    ],
)
async def test_nobody_is_led_elsewhere(visit: Visit, path: str) -> None:
    for where in ("/auth/login", "/auth"):
        answer = await visit.browser.http.get(where, params={"next": path}, follow_redirects=False)
        if where == "/auth" and not path:
            continue
        assert answer.status_code == 400, (where, answer.text)
        assert "location" not in answer.headers


async def test_a_path_here_is_kept(visit: Visit) -> None:
    await visit.begin("?next=/admin/keys%3Flimit%3D1%26tenant%3Dacme")
    visit.gives(visit.issuer.sign(visit.claims()))
    assert (await visit.come_back()).headers["location"] == f"{ADDRESS}/admin/keys?limit=1&tenant=acme"


async def test_the_longest_path_fits_into_a_cookie(visit: Visit) -> None:
    await visit.begin("?next=/" + "a" * 1023)
    assert len(str(visit.browser.cookie(COOKIE))) < 2500
    visit.gives(visit.issuer.sign(visit.claims()))
    assert (await visit.come_back()).headers["location"] == f"{ADDRESS}/" + "a" * 1023


async def test_input_is_bounded(visit: Visit) -> None:
    long = "x" * 9000
    for query in ({"state": long}, {"code": long}, {"error": long}, {"iss": long}):
        assert (await visit.come_back(**query)).status_code in {400, 414}
    for query in ({"provider": long}, {"provider": "nobody"}, {"next": long}):
        answer = await visit.browser.http.get("/auth/login", params=query, follow_redirects=False)
        assert answer.status_code in {400, 404, 414}
    assert visit.issuer.forms == []


async def test_a_code_is_good_for_one_session(serve: Serve) -> None:
    async with (
        certified_provider() as issuer,
        serve(client_of(issuer)) as (url, _),
        Browser(url) as browser,
    ):
        page = await browser.visit("/auth/login")
        sealed = str(browser.cookie(COOKIE))
        page = await browser.submit(page, login="alice", password="of the tests")
        page = await browser.submit(page)
        used = next(each.url for each in page.history if each.url.path == "/auth/callback")
        browser.http.cookies.set(COOKIE, sealed, domain="llm.example", path="/")
        again = await browser.visit(str(used))
        assert (again.status_code, "was used already" in again.text) == (400, True)


async def test_somebody_who_does_not_agree(serve: Serve) -> None:
    async with certified_provider() as issuer, serve(client_of(issuer)) as (url, _), Browser(url) as browser:
        page = await browser.visit("/auth/login")
        page = await browser.visit(f"{page.url}/abort")
        assert (page.status_code, "did not let you in" in page.text) == (403, True)
        page = await browser.sign_in("nobody")
        assert (page.status_code, "nobody has no role here" in page.text) == (403, True)
        await browser.visit(f"{issuer}/session/end")
        browser.http.cookies.clear()
        page = await browser.sign_in("mallory")
        assert (page.status_code, "no enabled tenant evil" in page.text) == (403, True)


async def test_a_provider_that_is_away(serve: Serve) -> None:
    async with certified_provider() as issuer:
        pass
    async with serve(client_of(issuer)) as (url, services), Browser(url) as browser:
        page = await browser.visit("/auth/login")
        assert (page.status_code, "acme-sso does not answer" in page.text) == (503, True)
        assert int(page.headers["retry-after"]) > 0
        told = await browser.http.get("/auth/login", headers={"accept": "application/json"})
        assert told.json()["error"]["code"] == "identity_provider_unavailable"
        assert issuer in services.access.problems[0]


async def test_one_of_two_providers_is_chosen(serve: Serve) -> None:
    async with certified_provider() as one, certified_provider() as two:
        providers = client_of(one, name="one"), client_of(two, name="two")
        async with serve(*providers) as (url, _), Browser(url) as browser:
            page = await browser.visit("/auth?next=/auth/me")
            assert "provider=one&amp;next=/auth/me" in page.text
            assert "provider=two&amp;next=/auth/me" in page.text
            unsaid = await browser.http.get("/auth/login")
            assert (unsaid.status_code, "provider=one|two" in unsaid.text) == (400, True)
            page = await browser.sign_in("alice", query="&provider=two")
            assert "You are signed in" in page.text
            assert any(str(each.url).startswith(two) for each in page.history)
            assert not any(str(each.url).startswith(one) for each in page.history)


async def test_many_who_begin_and_never_come_back_fill_nothing(visit: Visit) -> None:
    before = await _rows(visit)
    for _ in range(300):
        visit.browser.http.cookies.clear()
        await visit.begin()
    assert await _rows(visit) == before


async def _rows(visit: Visit) -> int:
    changes = await visit.services.access.service._store.changes(-1)
    assert changes is not None
    return len(changes.sessions)


async def test_where_nobody_signs_in_it_is_said(serve: Serve) -> None:
    async with serve({"issuer": "https://sso.example", "audience": ["x"]}) as (url, _), Browser(url) as browser:
        for path in ("/auth", "/auth/login", "/auth/callback"):
            page = await browser.visit(path)
            assert (page.status_code, "is not set up here" in page.text) == (404, True)
        assert (await browser.http.post("/auth/logout")).status_code == 404
        assert (await browser.http.get("/auth/me")).status_code == 401

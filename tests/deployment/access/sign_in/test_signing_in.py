"""Signing in with a browser, with a provider that is certified for OpenID Connect."""

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.deployment.access.sign_in.conftest import Serve, client_of
from tests.support.browser import ADDRESS, Browser
from tests.support.fake_node import FakeNode

from deployment.access import LOCAL_OPERATOR
from deployment.app import Services

SESSION = "__Host-ramsey-session"
JSON = {"accept": "application/json"}
OURS = {"origin": ADDRESS, "sec-fetch-site": "same-origin"}


async def acts(services: Services) -> list[tuple[str, str, str, dict[str, Any]]]:
    """What is in the record of signing in and out, the oldest first."""
    assert (await services.access.service.verify_audit(LOCAL_OPERATOR)).broken_at is None
    entries = (await services.access.service.audit(LOCAL_OPERATOR))[::-1]
    return [
        (entry.action, entry.actor_name, entry.tenant, json.loads(entry.detail))
        for entry in entries
        if entry.action.startswith("session.")
    ]


async def test_somebody_signs_in_is_known_and_signs_out(issuer: str, serve: Serve) -> None:
    async with serve(client_of(issuer)) as (url, services), Browser(url) as browser:
        page = await browser.sign_in("alice")
        assert (str(page.url), page.status_code) == (f"{ADDRESS}/auth", 200)
        assert "You are signed in as alice &lt;of Acme&gt;" in page.text
        me = await browser.who()
        assert (me["name"], me["tenant"], me["roles"]) == ("alice <of Acme>", "acme", ["admin"])
        assert me["signed_in"]
        assert "keys:write" in me["permissions"]
        assert (await browser.http.get("/admin/keys")).status_code == 200

        confirm = await browser.submit(page)
        assert str(confirm.url).startswith(f"{issuer}/session/end")
        assert browser.cookie(SESSION) is None
        end = await browser.submit(confirm, logout="yes")
        assert str(end.url).startswith(f"{ADDRESS}/auth")
        assert "You are not signed in" in end.text
        assert (await browser.http.get("/auth/me", headers=JSON)).status_code == 401
        again = await browser.visit("/auth/login")
        assert 'name="login"' in again.text, "the provider signed out too, and asks who it is"
        assert await acts(services) == [
            ("session.begin", "alice", "acme", {"issuer": issuer}),
            ("session.end", "alice", "acme", {}),
        ]


async def test_the_cookies_are_out_of_reach(issuer: str, serve: Serve) -> None:
    async with serve(client_of(issuer)) as (url, _), Browser(url) as browser:
        begun = await browser.http.get("/auth/login", follow_redirects=False)
        asked = parse_qs(urlsplit(begun.headers["location"]).query)
        assert asked["code_challenge_method"] == ["S256"]
        assert asked["redirect_uri"] == [f"{ADDRESS}/auth/callback"]
        page = await browser.sign_in("alice")
        came_back = next(each for each in page.history if each.url.path == "/auth/callback")
        for answer in (begun, came_back):
            for cookie in answer.headers.get_list("set-cookie"):
                assert cookie.startswith("__Host-ramsey-s"), cookie
                for flag in ("HttpOnly", "Secure", "Path=/", "SameSite=lax"):
                    assert flag in cookie
                assert "Domain" not in cookie
            assert answer.headers["cache-control"] == "no-store"
        session, sealed = browser.cookie(SESSION), browser.cookie("__Host-ramsey-sign-in")
        assert sealed is None, "what was kept while signing in is gone"
        assert session is not None
        assert len(session) >= 43
        for answer in (begun, page, *page.history):
            assert session not in answer.text
            assert session not in str(answer.url)


async def test_a_public_client_signs_people_in_without_a_secret(issuer: str, serve: Serve) -> None:
    public = client_of(issuer, client_id="public-console", client_secret=None)
    async with serve(public) as (url, _), Browser(url) as browser:
        await browser.sign_in("bob")
        assert (await browser.who())["roles"] == ["user"]


async def test_each_sign_in_has_a_new_session_and_ends_the_one_before(issuer: str, serve: Serve) -> None:
    async with serve(client_of(issuer)) as (url, _), Browser(url) as browser, Browser(url) as thief:
        chosen = "x" * 43
        browser.http.cookies.set(SESSION, chosen, domain="llm.example", path="/")
        await browser.sign_in("alice")
        first = browser.cookie(SESSION)
        assert first not in {None, chosen}
        await browser.sign_in("alice")
        second = browser.cookie(SESSION)
        assert second not in {None, first}
        for old in (chosen, first):
            thief.http.cookies.set(SESSION, str(old), domain="llm.example", path="/")
            assert (await thief.http.get("/auth/me", headers=JSON)).status_code == 401
            thief.http.cookies.clear()


async def test_what_changes_something_needs_the_token_and_our_own_page(issuer: str, serve: Serve) -> None:
    async with serve(client_of(issuer)) as (url, services), Browser(url) as browser:
        await browser.sign_in("alice")
        token = (await browser.who())["csrf_token"]
        body = {"name": "made in the browser"}
        refused = [
            {},
            {"x-csrf-token": token},
            OURS,
            OURS | {"x-csrf-token": "wrong"},
            OURS | {"x-csrf-token": token[:-1]},
            {"origin": "https://evil.example", "x-csrf-token": token},
            {"origin": f"{ADDRESS}.evil.example", "x-csrf-token": token},
            {"origin": "null", "x-csrf-token": token},
            {"origin": ADDRESS, "sec-fetch-site": "cross-site", "x-csrf-token": token},
            {"sec-fetch-site": "same-site", "x-csrf-token": token},
            {"sec-fetch-site": "none", "x-csrf-token": token},
        ]
        for headers in refused:
            answer = await browser.http.post("/admin/keys", json=body, headers=headers)
            assert answer.status_code == 403, headers
            assert "csrf_token" in answer.json()["error"]["hint"]
        assert await services.access.service.keys(LOCAL_OPERATOR) == []
        for headers in ({"origin": ADDRESS}, {"sec-fetch-site": "same-origin"}, OURS):
            answer = await browser.http.post("/admin/keys", json=body, headers=headers | {"x-csrf-token": token})
            assert answer.status_code == 201, answer.text
        forged = await browser.http.post("/auth/logout", headers=OURS | {"x-csrf-token": "wrong"})
        assert forged.status_code == 403
        assert (await browser.who())["signed_in"]


async def test_a_key_beside_the_cookie_decides(issuer: str, serve: Serve) -> None:
    async with serve(client_of(issuer)) as (url, services), Browser(url) as browser:
        await browser.sign_in("alice")
        me = await browser.who()
        headers = OURS | {"x-csrf-token": me["csrf_token"]}
        made = await browser.http.post("/admin/keys", json={"name": "shop", "roles": ["user"]}, headers=headers)
        key = {"authorization": f"Bearer {made.json()['key']}"}
        told = (await browser.http.get("/auth/me", headers=key | JSON)).json()
        assert (told["name"], told["signed_in"], told["csrf_token"]) == ("shop", False, None)
        assert (await browser.http.get("/admin/keys", headers=key)).status_code == 403
        generated = await browser.http.post("/generate", json={"prompt": "Hello"}, headers=key)
        assert generated.status_code == 200, "a key needs no token against forged requests"
        wrong = await browser.http.get("/admin/keys", headers={"authorization": "Bearer rk_wrong"})
        assert wrong.status_code == 401, "the session does not stand in for a key that is wrong"
        assert services.access.problems == []


async def test_a_foreign_page_signs_nobody_out(issuer: str, serve: Serve) -> None:
    """A browser sends a foreign form without the cookie, but takes the cookies of the answer."""
    async with serve(client_of(issuer)) as (url, _), Browser(url) as browser, Browser(url) as as_by_a_foreign_form:
        await browser.sign_in("alice")
        headers = {"origin": "https://evil.example", "sec-fetch-site": "cross-site", "accept": "text/html"}
        answer = await as_by_a_foreign_form.http.post("/auth/logout", headers=headers, follow_redirects=False)
        assert "set-cookie" not in answer.headers
        answer = await browser.http.post("/auth/logout", headers=headers, follow_redirects=False)
        assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)
        assert (await browser.who())["signed_in"]


async def test_a_person_asks_the_model_and_the_engine_sees_no_cookie(issuer: str, serve: Serve, node: FakeNode) -> None:
    async with serve(client_of(issuer)) as (url, _), Browser(url) as browser:
        await browser.sign_in("bob")
        headers = OURS | {"x-csrf-token": (await browser.who())["csrf_token"]}
        for path, body in (
            ("/generate", {"prompt": "Hello"}),
            ("/api/chat", {"model": "ramsey-model", "messages": [{"role": "user", "content": "Hello"}]}),
            ("/v1/completions", {"model": "ramsey-model", "prompt": "Hello"}),
        ):
            assert (await browser.http.post(path, json=body)).status_code == 403
            answer = await browser.http.post(path, json=body, headers=headers)
            assert answer.status_code == 200, answer.text
        secrets = (str(browser.cookie(SESSION)).encode(), headers["x-csrf-token"].encode(), b"cookie", b"csrf")
        seen = b" ".join(name + b"=" + value for each in node.seen for name, value in each.headers)
        assert b"content-type" in seen
        assert not [secret for secret in secrets if secret in seen]


async def test_a_program_signs_out_by_script(issuer: str, serve: Serve) -> None:
    async with serve(client_of(issuer)) as (url, _), Browser(url) as browser:
        await browser.sign_in("bob")
        stolen = browser.cookie(SESSION)
        headers = OURS | {"x-csrf-token": (await browser.who())["csrf_token"]}
        answer = await browser.http.post("/auth/logout", headers=headers | JSON)
        assert answer.json()["signed_out"] is True
        end = urlsplit(answer.json()["end_session_url"])
        asked = parse_qs(end.query)
        assert asked["post_logout_redirect_uri"] == [f"{ADDRESS}/auth"]
        assert asked["id_token_hint"][0].count(".") == 2
        assert browser.cookie(SESSION) is None
        browser.http.cookies.set(SESSION, str(stolen), domain="llm.example", path="/")
        over = await browser.http.get("/auth/me", headers=JSON)
        assert (over.status_code, over.json()["error"]["message"]) == (401, "The session is over.")
        twice = await browser.http.post("/auth/logout", headers=JSON)
        assert (twice.status_code, twice.json()["signed_out"]) == (200, False)

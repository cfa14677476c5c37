"""Pages of other sites in somebody's browser, and proxies that nobody trusts."""

from collections.abc import Iterator

import pytest
from tests.support.attacked import Target, attacked, status_of

KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A developer's gateway: programs of this machine need no key."""
    with attacked(tmp_path_factory.mktemp("desk"), RAMSEY_PROFILE="development") as running:
        yield running


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A gateway behind a proxy that it trusts, with a site that may call."""
    settings = {
        "RAMSEY_SERVER__TRUSTED_PROXIES": '["127.0.0.1/32"]',
        "RAMSEY_ACCESS__CORS_ORIGINS": '["https://app.example"]',
    }
    with attacked(tmp_path_factory.mktemp("behind"), **settings) as running:
        yield running


def test_a_good_program_of_this_machine_needs_no_key(desk: Target) -> None:
    assert desk.ask("POST", "/generate", json={"prompt": "Hello"}).status_code == 200
    assert (
        desk.ask("GET", "/models", headers={"host": "localhost", "origin": "http://localhost:3000"}).status_code == 200
    )


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "localhost@evil.example"]
)
def test_a_name_that_was_made_to_point_here(desk: Target, host: str) -> None:
    """DNS rebinding: the browser believes that it talks to its own site."""
    assert desk.ask("GET", "/models", headers={"host": host}).status_code == 401
    assert desk.ask("POST", "/admin/nodes", headers={"host": host}, json={}).status_code == 401


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost.evil.example", "file://", "http://[::1"]
)
def test_a_page_of_another_site(desk: Target, origin: str) -> None:
    reached = len(desk.received())
    for kind in ("text/plain", "application/json", "application/x-www-form-urlencoded"):
        headers = {"origin": origin, "content-type": kind}
        answer = desk.ask("POST", "/generate", headers=headers, content=b'{"prompt": "Hello from elsewhere"}')
        assert answer.status_code == 401
        assert "access-control-allow-origin" not in answer.headers
    assert len(desk.received()) == reached


def test_a_picture_or_link_of_another_site(desk: Target) -> None:
    """Browsers send no Origin with them, but say that they come from another site."""
    for path in ("/models", "/admin/nodes", "/metrics"):
        assert desk.ask("GET", path, headers={"sec-fetch-site": "cross-site"}).status_code == 401
        for own in ("same-origin", "same-site", "none"):
            assert desk.ask("GET", path, headers={"sec-fetch-site": own}).status_code == 200


@pytest.mark.parametrize(
    "header", ["x-forwarded-for", "forwarded", "x-real-ip", "via", "x-forwarded-host", "x-forwarded-proto"]
)
def test_the_world_through_a_proxy_of_this_machine(desk: Target, header: str) -> None:
    value = "for=127.0.0.1" if header == "forwarded" else "127.0.0.1"
    assert desk.ask("GET", "/models", headers={header: value}).status_code == 401


def test_another_sites_page_asks_what_it_may(target: Target) -> None:
    """Closed: no answer names an origin, and a question in advance is an unknown method."""
    for origin in ("https://evil.example", "null", "http://localhost"):
        for method in ("GET", "POST", "OPTIONS"):
            asked = {
                "origin": origin,
                "access-control-request-method": "POST",
                "access-control-request-headers": "x-api-key",
            }
            answer = target.ask(method, "/models", target.user, headers=asked)
            assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("stream", [True, False])
def test_a_good_site_that_may_can_read_an_inference(behind: Target, stream: bool) -> None:
    body = {"prompt": "Hello", "stream": stream}
    answer = behind.ask("POST", "/generate", behind.admin, json=body, headers={"origin": "https://app.example"})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "x-ramsey-release" in answer.headers["access-control-expose-headers"].lower()
    assert len(answer.headers.get_list("x-request-id")) == 1


def test_a_site_beside_the_one_that_may(behind: Target) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    may = behind.ask("OPTIONS", "/generate", headers=asked | {"origin": "https://app.example"})
    assert may.headers["access-control-allow-origin"] == "https://app.example"
    assert "access-control-allow-credentials" not in may.headers
    for origin in (
        "https://app.example.evil",
        "https://evil-app.example",
        "http://app.example",
        "https://APP.example",
        "*",
        "null",
    ):
        for method in ("OPTIONS", "GET"):
            answer = behind.ask(method, "/generate", headers=asked | {"origin": origin})
            assert "access-control-allow-origin" not in answer.headers, origin


@pytest.mark.parametrize("path", ["/chat", "/generate", "/v1/realtime", "/ws", "/"])
def test_a_websocket_from_another_site(target: Target, desk: Target, path: str) -> None:
    """There is none to open: the request is answered as the HTTP that it is, and the connection ends."""
    for gateway in (target, desk):
        upgrade = gateway.signed(
            "GET", path, b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", KEY,
            b"Origin: https://evil.example",
        ).replace(b"Connection: close\r\n", b"")  # fmt: skip
        answer = gateway.send(upgrade + b"\x81\xff" + b"\xff" * 8 + b"a" * 100_000)
        assert status_of(answer) in {200, 404, 405}
        assert b"sec-websocket-accept" not in answer.lower()
        assert b"connection: close" in answer


def test_an_address_that_a_caller_claims(target: Target) -> None:
    """Nobody is trusted by default: the address of the connection counts, for networks and in the record."""
    bound = target.key(networks=["203.0.113.0/24"])
    for header, value in (
        ("x-forwarded-for", "203.0.113.5"),
        ("forwarded", "for=203.0.113.5"),
        ("x-real-ip", "203.0.113.5"),
    ):
        assert target.ask("GET", "/models", bound, headers={header: value}).status_code == 403
    target.ask(
        "POST", "/admin/tenants", target.admin, headers={"x-forwarded-for": "6.6.6.6"}, json={"id": "fwd", "name": "x"}
    )
    assert "6.6.6.6" not in target.ask("GET", "/admin/audit?limit=1000", target.admin).text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-forwarded-for": "203.0.113.5"}, 200),
        ({"x-forwarded-for": "203.0.113.5, 198.51.100.7"}, 403),
        ({"x-forwarded-for": "203.0.113.5, unknown"}, 403),
        ({"x-forwarded-for": ""}, 403),
        ({"forwarded": "for=203.0.113.5, for=198.51.100.7"}, 403),
        ({"forwarded": 'for="203.0.113.5, for=198.51.100.7'}, 400),
        ({"forwarded": "for=203.0.113.5", "x-forwarded-for": "198.51.100.7"}, 400),
        ({}, 403),
    ],
)
def test_a_hop_written_in_front_of_the_proxys(behind: Target, headers: dict[str, str], status: int) -> None:
    """The last hop that is no trusted proxy counts: what stands before it, the caller may have written."""
    bound = behind.key(networks=["203.0.113.0/24"])
    assert behind.ask("GET", "/models", bound, headers=headers).status_code == status


def test_a_proxy_that_is_trusted_makes_nobody_local(tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = {"RAMSEY_PROFILE": "development", "RAMSEY_SERVER__TRUSTED_PROXIES": '["127.0.0.1/32"]'}
    with attacked(tmp_path_factory.mktemp("proxied"), **settings) as proxied:
        for headers in ({}, {"x-forwarded-for": "127.0.0.1"}, {"forwarded": "for=127.0.0.1"}):
            assert proxied.ask("GET", "/models", headers=headers).status_code == 401

"""Who really calls, behind proxies."""

import contextlib
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployment.access.credentials import is_local
from deployment.errors import InvalidRequest
from deployment.gateway.listener.proxies import UNKNOWN, TrustedProxies, address_of, for_hops

PROXIES = TrustedProxies([ip_network("10.0.0.0/8"), ip_network("127.0.0.1/32"), ip_network("2001:db8:1::/48")])
PROXY = "10.1.2.3"


def scope(peer: str, *headers: tuple[str, str]) -> dict[str, Any]:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    return {"client": (peer, 4711), "scheme": "http", "headers": raw, "state": {}}


def resolved(peer: str, *headers: tuple[str, str]) -> dict[str, Any]:
    found = scope(peer, *headers)
    PROXIES.resolve(found)
    return found


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ([], PROXY),
        ([("X-Forwarded-For", "198.51.100.7")], "198.51.100.7"),
        # What stands left of the first untrusted hop was written by the caller.
        ([("X-Forwarded-For", "127.0.0.1, 198.51.100.7")], "198.51.100.7"),
        ([("X-Forwarded-For", "198.51.100.7, 10.9.9.9, 10.8.8.8")], "198.51.100.7"),
        ([("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", "198.51.100.7")], "198.51.100.7"),
        ([("X-Forwarded-For", "10.9.9.9,10.8.8.8")], "10.9.9.9"),
        ([("X-Forwarded-For", "198.51.100.7:51234")], "198.51.100.7"),
        ([("X-Forwarded-For", "[2001:db8::7]:443")], "2001:db8::7"),
        ([("X-Forwarded-For", "::ffff:198.51.100.7")], "198.51.100.7"),
        ([("X-Forwarded-For", "")], UNKNOWN),
        ([("X-Forwarded-For", "198.51.100.7, <script>")], UNKNOWN),
        ([("X-Forwarded-For", "fe80::1%eth0")], UNKNOWN),
        ([("Forwarded", "for=198.51.100.7;proto=https")], "198.51.100.7"),
        ([("Forwarded", 'For="[2001:db8::7]:4711"')], "2001:db8::7"),
        ([("Forwarded", "for=127.0.0.1, for=198.51.100.7;by=10.0.0.1, for=10.2.2.2")], "198.51.100.7"),
        ([("Forwarded", 'for="6.6.6.6, for=127.0.0.1", for=198.51.100.7')], "198.51.100.7"),
        ([("Forwarded", "for=_hidden")], UNKNOWN),
        ([("Forwarded", "proto=https")], UNKNOWN),
        ([("Forwarded", "for=198.51.100.7"), ("X-Forwarded-For", "198.51.100.7")], "198.51.100.7"),
    ],
)
def test_the_rightmost_hop_that_is_no_trusted_proxy_is_the_client(headers: list[tuple[str, str]], client: str) -> None:
    assert resolved(PROXY, *headers)["client"][0] == client


@pytest.mark.parametrize(
    "headers",
    [
        [("Forwarded", 'for="6.6.6.6, for=198.51.100.7')],  # a quote that swallows what the proxy appended
        [("Forwarded", "for=6.6.6.6 for=7.7.7.7")],
        [("Forwarded", "")],
        [("Forwarded", "for=1.2.3.4,")],
        [("Forwarded", "for=6.6.6.6"), ("X-Forwarded-For", "198.51.100.7")],
    ],
)
def test_what_is_malformed_or_contradicts_itself_is_refused(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(InvalidRequest):
        resolved(PROXY, *headers)


@pytest.mark.parametrize("peer", ["198.51.100.1", "127.0.0.2", "::1", "11.0.0.1", "testclient", ""])
def test_nobody_else_is_believed(peer: str) -> None:
    found = resolved(peer, ("X-Forwarded-For", "10.0.0.1"), ("Forwarded", "rubbish"), ("X-Forwarded-Proto", "https"))
    assert found["client"] == (peer, 4711)
    assert found["scheme"] == "http"
    assert "proxied" not in found["state"]


@pytest.mark.parametrize(
    ("told", "scheme"), [("https", "https"), ("http, https", "https"), ("HTTPS", "https"), ("gopher", "http")]
)
def test_the_scheme_is_the_nearest_proxys(told: str, scheme: str) -> None:
    headers = ("X-Forwarded-For", "198.51.100.7"), ("X-Forwarded-Proto", told)
    assert resolved(PROXY, *headers)["scheme"] == scheme


def test_through_a_proxy_nobody_is_local() -> None:
    host = ("Host", "localhost")
    assert is_local(scope("127.0.0.1", host))
    assert not is_local(resolved("127.0.0.1", host))
    assert not is_local(resolved(PROXY, host, ("X-Forwarded-For", "127.0.0.1")))
    assert not is_local(resolved("::1", host, ("X-Forwarded-For", "127.0.0.1")))  # as before, without trust


@given(st.text())
def test_no_header_breaks_the_parser(text: str) -> None:
    address_of(text)
    try:
        hops = for_hops(text)
    except InvalidRequest:
        return
    assert hops


@given(st.lists(st.sampled_from(['"', "\\", ",", ";", "=", "for", "for=1.2.3.4", " ", "[::1]"]), max_size=30))
def test_what_a_caller_wrote_never_swallows_what_the_proxy_appends(parts: list[str]) -> None:
    with contextlib.suppress(InvalidRequest):
        assert for_hops("".join(parts) + ", for=198.51.100.7")[-1] == "198.51.100.7"

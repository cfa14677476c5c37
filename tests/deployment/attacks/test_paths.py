"""Paths that a rule in front reads as one thing, and the gateway could read as another."""

import json

import pytest
from tests.support.attacked import Target, status_of


@pytest.mark.parametrize(
    "path",
    [
        "/admin%2fkeys",
        "/admin%2Fkeys",
        "/admin%5ckeys",
        "/api%2f..%2fadmin/keys",
        "/admin/keys%00",
        "/admin/keys%00.css",
        "/admin/keys/%0d%0aX-Admin:%20yes",
        "/admin/keys?after=%00",
        "/v1/models/a%2fb",
    ],
)
def test_an_encoded_slash_or_control_character(target: Target, path: str) -> None:
    answer = target.ask("GET", path, target.admin)
    assert answer.status_code == 400
    assert "encoded slash" in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/api/../admin/keys",
        "/api/./../admin/keys",
        "/v1/models/../../admin/keys",
        "/api/%2e%2e/admin/keys",
        "/admin/./keys",
        "/admin//keys",
        "//admin/keys",
        "/admin/keys/.",
        "/admin/keys;a=b",
        "/admin;/keys",
        "/ADMIN/KEYS",
        "/Admin/keys",
        "/admin/keys.",
        "/admin/keys.json",
        "/admin/keys%20",
        "/admin/keys%252f",
        "/%61dmin%252fkeys",
        "/admin/keys\\",
        "/admin/ke%79s%e2%80%8b",
    ],
)
def test_another_spelling_of_an_administrators_path(target: Target, path: str) -> None:
    """Not the route: where it is a path at all, there is nothing, even for an administrator."""
    answer = target.send(target.signed("GET", path).replace(target.user.encode(), target.admin.encode()))
    assert status_of(answer) in {400, 404, 405}, answer[:200]
    assert b"public_id" not in answer


def test_an_encoded_letter_is_the_same_path_with_the_same_permission(target: Target) -> None:
    assert target.ask("GET", "/%61dmin/keys", target.admin).status_code == 200
    assert target.ask("GET", "/%61dmin/keys", target.user).status_code == 403
    assert target.ask("GET", "/%61dmin/keys").status_code == 401


@pytest.mark.parametrize("path", ["/generate/", "/admin/keys/", "/docs/", "/v1/models/", "/docs/assets"])
def test_a_slash_at_the_end_redirects_nobody_to_a_host_of_the_callers(target: Target, path: str) -> None:
    answer = target.ask("GET", path, target.admin, headers={"host": "evil.example"})
    assert answer.status_code in {404, 405}
    assert "location" not in answer.headers
    assert "evil" not in answer.text


@pytest.mark.parametrize("line", ["http://evil.example/admin/keys", "http://llm.example/admin/keys"])
def test_an_absolute_request_target(target: Target, line: str) -> None:
    """The path alone counts: it is the same route with the same permission, and nothing is fetched."""
    assert status_of(target.send(target.signed("GET", line))) == 403


@pytest.mark.parametrize("line", ["http://evil.example", "*", "evil.example:443", "admin/keys", ""])
def test_a_request_target_that_is_no_path(target: Target, line: str) -> None:
    assert status_of(target.send(target.signed("GET", line))) in {400, 404}


@pytest.mark.parametrize(
    "path",
    [
        "/docs/assets/../../../../etc/passwd",
        "/docs/assets/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/docs/assets/..%2f..%2fetc/passwd",
        "/docs/assets//etc/passwd",
        "/docs/assets/....//....//etc/passwd",
        "/docs/assets/",
        "/docs/assets/.",
    ],
)
def test_files_outside_of_the_documents(target: Target, path: str) -> None:
    answer = target.send(target.signed("GET", path))
    assert status_of(answer) in {400, 404}
    assert b"root:" not in answer


@pytest.mark.parametrize(
    "header", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Original-URL", "X-Rewrite-URL"]
)
def test_headers_that_override_method_or_path(target: Target, header: str) -> None:
    value = "/admin/keys" if header.endswith("URL") else "DELETE"
    answer = target.ask("GET", "/models", target.admin, headers={header: value})
    assert answer.status_code == 200
    assert json.loads(answer.text)["default"] == "ramsey-model"


@pytest.mark.parametrize("method", ["TRACE", "PROPFIND", "PATCH", "PURGE", "OPTIONS", "LINK"])
def test_other_methods(target: Target, method: str) -> None:
    for path in ("/generate", "/admin/keys", "/models"):
        answer = target.ask(method, path, target.admin, headers={"x-echo": "s3cret"})
        assert answer.status_code == 405
        assert "s3cret" not in answer.text

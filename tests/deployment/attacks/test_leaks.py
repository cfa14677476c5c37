"""What an attacker learns from errors, from pages that need no key, and from headers."""

import re
from collections.abc import Iterator

import pytest
from tests.support.attacked import Target, attacked, until

INNER = re.compile(
    r"Traceback|site-packages|\.py\b|sqlalchemy|asyncpg|aiosqlite|uvicorn|starlette|pydantic|/tmp/", re.I
)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A gateway whose database and Redis are away, and which shows no documents."""
    settings = {
        "RAMSEY_DATABASE__URL": "postgresql://ramsey:hunter2@127.0.0.1:1/secretdb",
        "RAMSEY_LIMITS__REDIS_URL": "redis://:hunter2@127.0.0.1:1/0",
        "RAMSEY_SERVER__DOCUMENTS": "false",
    }
    with attacked(tmp_path_factory.mktemp("bare"), **settings) as running:
        yield running


def test_errors_tell_nothing_of_the_inside(target: Target) -> None:
    for method, path, body in (
        ("POST", "/generate", b"\xff"),
        ("POST", "/generate", b'{"prompt": 5}'),
        ("POST", "/admin/keys", b"["),
        ("POST", "/admin/keys", b'{"name": "x", "expires_at": "9999-12-31T23:59:59-23:59"}'),
        ("GET", "/admin/rollouts?before=0001-01-01T00:00:00%2B23:59", None),
        ("GET", "/admin/rollouts?before=2020-01-01", None),
        ("GET", "/admin/audit?before=99999999999999999999999", None),
        ("PUT", "/admin/privacy/tenants/" + "x" * 5000, b'{"keep": false}'),
        ("GET", "/nowhere", None),
        ("PATCH", "/generate", None),
    ):
        more = {} if body is None else {"content": body, "headers": {"content-type": "application/json"}}
        answer = target.ask(method, path, target.admin, **more)
        assert 400 <= answer.status_code < 500 or path.startswith("/admin/privacy"), (path, answer.text)
        assert answer.status_code < 500, (path, answer.text)
        assert not INNER.search(answer.text), answer.text


def test_an_engines_address_is_told_to_no_caller(target: Target) -> None:
    target.node.fail("error", times=50, text="secret detail of the engine")
    try:
        answer = target.ask("POST", "/generate", target.user, json={"prompt": "x"})
        assert answer.status_code >= 500
        assert target.node.url.rpartition("/")[2] not in answer.text
        health = target.ask("GET", "/health")
        assert target.node.url.rpartition("/")[2] not in health.text
    finally:
        target.node.heal()
        until(lambda: target.ask("GET", "/health").status_code == 200)
        until(lambda: target.ask("POST", "/generate", target.user, json={"prompt": "x"}).status_code == 200)


def test_a_servers_name_and_version(target: Target) -> None:
    for path in ("/", "/health", "/nowhere", "/docs", "/models", "/generate"):
        answer = target.ask("GET", path)
        assert "server" not in answer.headers
        assert "x-powered-by" not in answer.headers
    bad = target.send(b"rubbish\r\n\r\n").lower()
    assert b"server:" not in bad
    assert b"uvicorn" not in bad


@pytest.mark.parametrize(
    "path", ["/metrics", "/models", "/v1/models", "/api/tags", "/api/ps", "/api/version", "/admin/nodes"]
)
def test_what_needs_a_key_without_one(target: Target, path: str) -> None:
    answer = target.ask("GET", path)
    assert answer.status_code == 401
    assert "ramsey-model" not in answer.text


def test_what_needs_no_key(target: Target) -> None:
    """Health for load balancers, the documents, and what Ollama's clients look for: no caller, tenant or address."""
    for path in ("/", "/health", "/health/live", "/health/ready", "/docs", "/redoc", "/openapi.json"):
        answer = target.ask("GET", path)
        assert answer.status_code == 200
        for secret in ("127.0.0.1", "tenant-admin", str(target.log.parent)):
            assert secret not in answer.text.replace("http://127.0.0.1:8000", ""), (path, secret)


def test_documents_that_are_switched_off(bare: Target) -> None:
    for path in ("/docs", "/redoc", "/openapi.json", "/docs/assets/redoc.standalone.js"):
        assert bare.ask("GET", path).status_code == 404
    assert bare.ask("POST", "/generate", bare.user, json={"prompt": "x"}).status_code == 200


def test_where_the_database_is(bare: Target) -> None:
    """/health says that it is away, and to nobody where it is; the log says it, without the password."""
    told = bare.ask("GET", "/health").json()
    assert any("database" in each for each in told["degraded"])
    keys = bare.ask("GET", "/admin/keys", bare.admin)
    assert keys.status_code == 503
    for text in (str(told), keys.text):
        for secret in ("hunter2", "secretdb", "127.0.0.1", ":1/"):
            assert secret not in text, text
    log = "\n".join(bare.lines())
    assert "secretdb" in log
    assert "hunter2" not in log


@pytest.mark.parametrize("path", ["/health", "/nowhere", "/generate", "/v1/models", "/docs"])
def test_every_answer_has_the_headers_that_protect_browsers(target: Target, path: str) -> None:
    headers = target.ask("GET", path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "default-src 'none'" in headers["content-security-policy"]


def test_endpoints_and_labels_of_metrics_are_not_the_callers_to_make(target: Target) -> None:
    for number in range(50):
        target.ask("GET", f"/nowhere/{number}-marked", target.user)
        target.ask("POST", "/generate", target.user, json={"prompt": "x", "model": f"marked-{number}"})
    assert "marked" not in target.ask("GET", "/metrics", target.admin).text

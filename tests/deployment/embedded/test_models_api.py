"""Creating, showing, copying and deleting over HTTP."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
from tests.support.embedded_node import CHAT_TEMPLATE, MODELS, PARAMETERS, create_model, start_node

from deployment.embedded.models import human_count, template_differs

MODEL = "bot:v1"
SYSTEM = "Be brief."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with start_node(folder) as started:
        yield started


@pytest.fixture
def node(url: str) -> Iterator[httpx.Client]:
    """A client; whatever models a test made are deleted after it."""
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client
        for name in names(client):
            client.request("DELETE", "/api/delete", json={"model": name})


def names(node: httpx.Client) -> list[str]:
    return sorted(each["name"] for each in node.get("/api/tags").json()["models"])


def upload(node: httpx.Client, content: bytes) -> str:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert node.post(f"/api/blobs/{digest}", content=content).status_code in (200, 201)
    return digest


def chat(node: httpx.Client, model: str) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": "What is R(3,3)?"}], "stream": False}
    content: str = node.post("/api/chat", json=body).json()["message"]["content"]
    return content


def test_blobs(node: httpx.Client, folder: Path) -> None:
    digest = f"sha256:{hashlib.sha256(b'content').hexdigest()}"
    assert node.head(f"/api/blobs/{digest}").status_code == 404
    assert node.post(f"/api/blobs/{digest}", content=b"content").status_code == 201
    assert node.head(f"/api/blobs/{digest}").status_code == 200
    assert node.post(f"/api/blobs/{digest}", content=b"content").status_code == 200
    assert (folder / "blobs" / digest.replace(":", "-")).read_bytes() == b"content"
    other = "sha256:" + "0" * 64
    refused = node.post(f"/api/blobs/{other}", content=b"content")
    assert refused.status_code == 400
    assert "digest mismatch" in refused.json()["error"]
    assert node.head(f"/api/blobs/{other}").status_code == 404
    assert node.head("/api/blobs/sha256:short").status_code == 400
    assert node.post("/api/blobs/sha256:short", content=b"x").json() == {"error": "invalid digest format"}
    assert node.get(f"/api/blobs/{digest}").status_code == 405
    assert list((folder / ".ramsey").iterdir()) == []


def test_create_streams_its_progress(node: httpx.Client) -> None:
    digest = upload(node, (MODELS / "ramsey-model-v1.1.gguf").read_bytes())
    response = node.post("/api/create", json={"model": MODEL, "files": {"m.gguf": digest}, "system": SYSTEM})
    statuses = [json.loads(line)["status"] for line in response.text.splitlines()]
    assert statuses[0] == "parsing GGUF"
    assert f"using existing layer {digest}" in statuses
    assert statuses[-2:] == ["writing manifest", "success"]
    assert names(node) == [MODEL]


def test_create_keeps_the_digest_and_repeats(node: httpx.Client, folder: Path) -> None:
    digest = create_model(str(node.base_url), MODEL)
    listed = node.get("/api/tags").json()["models"][0]
    path = folder / "manifests/registry.ollama.ai/library/bot/v1"
    assert listed["digest"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert json.loads(path.read_bytes())["layers"][0]["digest"] == digest
    assert listed["details"]["family"] == "llama"
    assert listed["details"]["parameter_size"] == "1.82M"
    assert listed["details"]["quantization_level"] == "F16"
    create_model(str(node.base_url), "bot:v2")
    assert len({each["digest"] for each in node.get("/api/tags").json()["models"]}) == 1


def test_create_with_the_official_client(url: str, node: httpx.Client) -> None:
    client = ollama.Client(url)
    digest = client.create_blob(MODELS / "ramsey-model-v1.1.gguf")
    answer = client.create(MODEL, files={"m.gguf": digest}, parameters=PARAMETERS, system=SYSTEM)
    assert answer.status == "success"
    assert chat(node, MODEL).startswith("R(3,3) = 6.")


def test_create_from_a_model(node: httpx.Client) -> None:
    create_model(str(node.base_url), MODEL, system=SYSTEM, template=CHAT_TEMPLATE, license=["MIT"])
    body = {"model": "bot:short", "from": MODEL, "parameters": {"num_predict": 4}, "stream": False}
    assert node.post("/api/create", json=body).json() == {"status": "success"}
    shown = node.post("/api/show", json={"model": "bot:short"}).json()
    assert (shown["system"], shown["template"], shown["license"]) == (SYSTEM, CHAT_TEMPLATE, "MIT")
    assert "num_ctx" in shown["parameters"]  # merged with what the base has
    assert chat(node, "bot:short") == "R(3,"
    missing = node.post("/api/create", json={"model": "x", "from": "nobody", "stream": False})
    assert (missing.status_code, missing.json()) == (404, {"error": "model 'nobody' not found"})


def test_messages_of_the_model_come_first(node: httpx.Client) -> None:
    create_model(str(node.base_url), MODEL)
    plain = node.post("/api/generate", json={"model": MODEL, "prompt": "R(3,3)?", "stream": False}).json()
    turns = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hello."}]
    create_model(str(node.base_url), MODEL, messages=turns)
    longer = node.post("/api/generate", json={"model": MODEL, "prompt": "R(3,3)?", "stream": False}).json()
    assert longer["prompt_eval_count"] > plain["prompt_eval_count"]
    assert node.post("/api/show", json={"model": MODEL}).json()["messages"] == turns


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "damage",
    [
        lambda good: b"this is no model",
        lambda good: good[: len(good) // 2],
        lambda good: good[:4] + b"\xff" * 60 + good[64:],
    ],
)
def test_a_corrupt_gguf_is_refused(node: httpx.Client, damage: Any, stream: bool) -> None:
    digest = upload(node, damage((MODELS / "ramsey-model-v1.1.gguf").read_bytes()))
    body = {"model": "broken", "files": {"m.gguf": digest}, "stream": stream}
    response = node.post("/api/create", json=body)
    last = json.loads(response.text.splitlines()[-1])
    assert response.status_code == (200 if stream else 400)
    assert last["error"].startswith("invalid GGUF: ")
    assert names(node) == []


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "neither 'from' or 'files' was specified"),
        ({"model": ""}, "invalid model name"),
        ({"model": "bot:v1-cloud", "from": "x"}, "invalid model name"),
        ({"files": {"../m.gguf": "sha256:" + "0" * 64}}, "invalid file path"),
        ({"files": {"/m.gguf": "sha256:" + "0" * 64}}, "invalid file path"),
        ({"files": {"m.gguf": "sha256:../../x"}}, "invalid digest format"),
        ({"files": {"m.gguf": "sha256:" + "0" * 64}}, "upload it"),
        ({"files": {"a": "sha256:" + "0" * 64, "b": "sha256:" + "1" * 64}}, "exactly one GGUF"),
        ({"from": "x", "adapters": {"a": "sha256:" + "0" * 64}}, "adapters are not supported"),
        ({"from": "x", "quantize": "Q8_0"}, "quantize is not supported"),
    ],
)
def test_what_create_refuses(node: httpx.Client, fields: dict[str, Any], text: str) -> None:
    response = node.post("/api/create", json={"model": "bot", "stream": False} | fields)
    assert response.status_code == 400
    assert text in response.json()["error"]


def test_a_template_of_another_format_is_reported(node: httpx.Client) -> None:
    digest = upload(node, (MODELS / "ramsey-model-v1.1.gguf").read_bytes())
    body = {"model": MODEL, "files": {"m.gguf": digest}, "template": "[INST] {{ .Prompt }} [/INST]"}
    assert "TEMPLATE differs" in node.post("/api/create", json=body).text
    assert "TEMPLATE differs" not in node.post("/api/create", json=body | {"template": CHAT_TEMPLATE}).text


def test_template_differs() -> None:
    jinja = "{% for m in messages %}{{ '<|im_start|>' + m.role }}<|im_end|>{% endfor %}"
    assert not template_differs("", jinja)
    assert not template_differs(CHAT_TEMPLATE, jinja)
    assert not template_differs(CHAT_TEMPLATE, None)  # llama.cpp falls back to the same format
    assert template_differs("<|user|>{{ .Prompt }}<|end|>", jinja)


def test_show(node: httpx.Client) -> None:
    create_model(str(node.base_url), MODEL, system=SYSTEM, template=CHAT_TEMPLATE)
    shown = node.post("/api/show", json={"model": MODEL}).json()
    assert shown["capabilities"] == ["completion", "embedding"]
    assert shown["model_info"]["general.architecture"] == "llama"
    assert shown["model_info"]["llama.context_length"] == 512
    assert shown["model_info"]["tokenizer.ggml.tokens"] is None
    assert 'stop                           "<|im_end|>"' in shown["parameters"]
    assert f'SYSTEM """{SYSTEM}"""' in shown["modelfile"]
    assert "tensors" not in shown
    verbose = node.post("/api/show", json={"name": MODEL, "verbose": True}).json()
    assert len(verbose["model_info"]["tokenizer.ggml.tokens"]) == 1280
    assert {"name": "token_embd.weight", "type": "F16", "shape": [192, 1280]} in verbose["tensors"]
    assert node.post("/api/show", json={"model": "nobody"}).status_code == 404


def test_copy_and_delete(node: httpx.Client, folder: Path) -> None:
    digest = create_model(str(node.base_url), MODEL)
    copied = node.post("/api/copy", json={"source": MODEL, "destination": "bot:prod"})
    assert (copied.status_code, copied.content) == (200, b"")
    assert names(node) == ["bot:prod", MODEL]
    deleted = node.request("DELETE", "/api/delete", json={"model": MODEL})
    assert (deleted.status_code, deleted.content) == (200, b"")
    assert chat(node, "bot:prod").startswith("R(3,3) = 6.")
    assert node.head(f"/api/blobs/{digest}").status_code == 200
    node.request("DELETE", "/api/delete", json={"name": "bot:prod"})
    assert node.head(f"/api/blobs/{digest}").status_code == 404
    assert not any((folder / "manifests").rglob("*"))
    assert node.post("/api/copy", json={"source": MODEL, "destination": "x"}).status_code == 404
    assert node.post("/api/copy", json={"source": MODEL, "destination": "a b"}).status_code == 400
    assert node.request("DELETE", "/api/delete", json={"model": MODEL}).json() == {
        "error": f"model '{MODEL}' not found"
    }


def test_lost_weights_look_as_with_ollama(node: httpx.Client, folder: Path) -> None:
    digest = create_model(str(node.base_url), MODEL)
    (folder / "blobs" / digest.replace(":", "-")).unlink()
    assert names(node) == [MODEL]
    response = node.post("/api/generate", json={"model": MODEL, "prompt": "x"})
    assert response.status_code == 400
    assert response.json()["error"] == f'"{MODEL}" does not support generate'


def test_human_count() -> None:
    counts = {999: "999", 1500: "2K", 1_820_352: "1.82M", 7_000_000_000: "7B", 7_241_732_096: "7.2B"}
    assert {count: human_count(count) for count in counts} == counts

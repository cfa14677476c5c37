"""Making the gateway, or a node, call an address that the attacker chooses."""

import asyncio
import base64
import socket
import threading
from collections.abc import Iterator

import pytest
from tests.support.attacked import Target

from deployment.errors import EngineError
from deployment.ollama_client import OllamaClient


class Trap:
    """A port that counts who comes."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.visits = 0
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        while True:
            try:
                visitor, _ = self._listener.accept()
            except OSError:
                return
            self.visits += 1
            visitor.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def trap() -> Iterator[Trap]:
    opened = Trap()
    yield opened
    opened.close()


def test_an_image_at_an_address(target: Target, trap: Trap) -> None:
    for url in (
        f"{trap.url}/x.png",
        "file:///etc/passwd",
        "http://169.254.169.254/latest/meta-data",
        "//evil.example/x",
    ):
        content = [{"type": "image_url", "image_url": {"url": url}}]
        answer = target.ask(
            "POST",
            "/v1/chat/completions",
            target.user,
            json={"model": "ramsey-model", "messages": [{"role": "user", "content": content}]},
        )
        assert answer.status_code == 400
        assert "data: URLs" in answer.text
        for path, body in (
            ("/chat", {"messages": [{"role": "user", "content": "x", "images": [url]}]}),
            ("/api/chat", {"model": "ramsey-model", "messages": [{"role": "user", "content": "x", "images": [url]}]}),
            ("/api/generate", {"model": "ramsey-model", "prompt": "x", "images": [url]}),
        ):
            told = target.ask("POST", path, target.user, json=body)
            assert told.status_code == 400, path
            assert "base64" in told.text
    assert trap.visits == 0


def test_a_good_image_goes_on(target: Target) -> None:
    image = base64.b64encode(b"\x89PNG\r\n").decode()
    body = {"model": "ramsey-model", "messages": [{"role": "user", "content": "x", "images": [image]}], "stream": False}
    assert target.ask("POST", "/api/chat", target.user, json=body).status_code == 200
    assert target.sent()["messages"][0]["images"] == [image]


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254",
        "http://169.254.169.254:80",
        "http://2852039166",
        "http://0xA9FEA9FE",
        "http://0xa9.0xfe.0xa9.0xfe",
        "http://0251.0376.0251.0376",
        "http://169.254.43518",
        "http://[fe80::1]",
        "http://[::ffff:169.254.169.254]",
        "http://user:pass@10.0.0.1",
        "http://10.0.0.1/admin",
        "http://10.0.0.1?x",
        "http://10.0.0.1#x",
        "http://10.0.0.1:0",
        "http://10.0.0.1:99999",
        "file:///etc/passwd",
        "gopher://10.0.0.1:70",
        "unix:///var/run/docker.sock",
        "http://10.0.0.1\r\nX: y",
        "http://ex ample",
    ],
)
def test_a_node_that_is_a_clouds_metadata_or_no_node(target: Target, url: str) -> None:
    operator = target.key(roles=["operator"])
    answer = target.ask("POST", "/admin/nodes", operator, json={"name": "evil", "url": url, "slots": 1})
    assert answer.status_code == 400, answer.text
    assert target.ask("GET", "/admin/nodes/evil", operator).status_code == 404


def test_a_node_added_by_who_may_not(target: Target, trap: Trap) -> None:
    body = {"name": "evil", "url": trap.url, "slots": 1}
    assert target.ask("POST", "/admin/nodes", target.user, json=body).status_code == 403
    assert target.ask("POST", "/admin/nodes", target.key(roles=["viewer"]), json=body).status_code == 403
    assert target.ask("POST", "/admin/nodes", json=body).status_code == 401
    assert trap.visits == 0


async def test_a_name_that_leads_to_a_clouds_metadata() -> None:
    """Looked at when it is asked, for a name may change its meaning after it was taken."""
    async with OllamaClient("http://2852039166") as client:
        with pytest.raises(EngineError, match="link-local"):
            async with asyncio.timeout(30):
                await client.version()


@pytest.mark.parametrize(
    "plan",
    [
        {"webhooks": [{"url": "{}"}]},
        {"webhooks": [{"url": "http://169.254.169.254/"}]},
        {"webhooks": [{"url": "http://localhost@evil.example/"}]},
        {"webhooks": [{"url": "file:///etc/passwd"}]},
        {"gates": {"executable": ["/bin/sh", "-c", "id"]}},
    ],
)
def test_a_webhook_in_the_plan_of_a_rollout(target: Target, trap: Trap, plan: dict[str, object]) -> None:
    """Whoever may deploy makes the gateways call no host that the settings don't name."""
    body = {"release": "v1.1", "plan": _with(plan, trap.url)}
    answer = target.ask("POST", "/admin/rollouts", target.key(roles=["operator"]), json=body)
    assert answer.status_code == 400, answer.text
    assert trap.visits == 0


@pytest.mark.parametrize(
    "source", ["/etc/passwd", "../../etc/passwd", "http://evil.example/x.gguf", "hf.co/a/b", "other"]
)
def test_a_release_made_of_a_file_of_the_gateways(target: Target, source: str) -> None:
    operator = target.key(roles=["operator"])
    for files in ({}, {source: "0" * 64}):
        body = {"modelfile": f"FROM {source}\n", "files": files, "version": "v7"}
        answer = target.ask("POST", "/admin/releases", operator, json=body)
        assert answer.status_code in {400, 404}, answer.text
        assert "root:" not in answer.text


def _with(value: object, url: str) -> object:
    if isinstance(value, dict):
        return {name: _with(each, url) for name, each in value.items()}
    if isinstance(value, list):
        return [_with(each, url) for each in value]
    return url if value == "{}" else value

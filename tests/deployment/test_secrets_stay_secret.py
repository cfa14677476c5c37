"""A gateway full of marked secrets works and fails: nothing that comes out of it holds one."""

import base64
import hashlib
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.support.background import background
from tests.support.fake_node import FakeNode
from tests.support.stack import ROOT, clean_environment, free_port, wait_for

from deployment.app import create_app
from deployment.errors import RamseyError
from deployment.releases.rollout.plan import parse
from deployment.settings import load

MARK = "mArKeD"


def marked(name: str) -> str:
    return f"{MARK}{name}"


KEY = marked("key")
SEAL = base64.b64encode(f"{MARK}seal".ljust(32, "x").encode()).decode()
HIDDEN = (MARK, SEAL, base64.b64encode(f"ramsey:{marked('node')}".encode()).decode())
CONFIG = f"""
profile = "production"

[server]
public_url = "https://llm.example"

[model]
modelfile = "none"
release = "v1.1"

[log]
level = "debug"

[access]
keys = [{{ name = "admin", sha256 = "{hashlib.sha256(KEY.encode()).hexdigest()}", roles = ["admin"] }}]

[[access.oidc]]
issuer = "http://localhost:1/"
audience = ["ramsey"]
client_id = "ramsey"
client_secret = "{marked("oidc")}"

[privacy]
keys = [{{ id = "k1", secret = "{SEAL}" }}]

[secrets]
vault_url = "http://ramsey:{marked("vaulturl")}@127.0.0.1:1"
vault_token = "{marked("vault")}"

[cache]
enabled = true
redis_url = "redis://:{marked("cache")}@127.0.0.1:1"

[limits]
redis_url = "file:%(folder)s/redis"

[database]
url = "env:THE_DATABASE"

[pool]
redis_url = "redis://ramsey:{marked("pool")}@127.0.0.1:1?password={marked("poolquery")}"
nodes = [{{ name = "n1", url = "http://ramsey:{marked("node")}@%(node)s" }}]
"""


def nothing_in(text: str, where: str) -> None:
    for secret in HIDDEN:
        at = text.find(secret)
        assert at < 0, f"{where} tells a secret: …{text[max(0, at - 200) : at + 60]}"


@contextmanager
def gateway(folder: Path) -> Iterator[tuple[str, FakeNode, Path, dict[str, str], "subprocess.Popen[bytes]"]]:
    log, port = folder / "gateway.log", free_port()
    with background() as world:
        node = world.enter(FakeNode())
        (folder / "redis").write_text(f"redis://:{marked('limits')}@127.0.0.1:1\n")
        config = folder / "ramsey.toml"
        config.write_text(CONFIG % {"folder": folder, "node": node.url.removeprefix("http://")})
        database = f"postgresql://ramsey:{marked('database')}@127.0.0.1:1/x?password={marked('databasequery')}"
        environment = clean_environment(
            RAMSEY_CONFIG=str(config),
            RAMSEY_DATA_DIR=str(folder / "data"),
            RAMSEY_SERVER__PORT=str(port),
            THE_DATABASE=database,
        )
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "src/deployment/api.py"], cwd=ROOT, env=environment, stdout=output, stderr=output
            )
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(f"{url}/health", process, log)
            yield url, node, log, environment, process
        finally:
            process.terminate()
            process.wait(30)


def asked(url: str, node: FakeNode) -> list[httpx.Response]:
    """What works and what fails, with whatever a caller may get wrong."""
    good, ask = {"authorization": f"Bearer {KEY}"}, {"prompt": "Hello"}
    with httpx.Client(base_url=url, timeout=60) as http:
        answers = [
            http.post("/generate", json=ask, headers=good),
            http.post("/generate", json=ask | {"stream": True}, headers=good),
            http.post("/generate", json=ask, headers={"authorization": f"Bearer {marked('wrong')}"}),
            http.post("/generate", json=ask, headers={"x-api-key": f"rk_{marked('typo')}"}),
            http.post("/generate", json=ask, headers={"authorization": f"Basic {marked('basic')}"}),
            http.post("/generate", json=ask, headers=good | {"x-api-key": marked("second")}),
            http.get(f"/models?api_key={marked('query')}"),
            http.get(f"/v1/models?key={marked('query')}", headers=good),
            http.get("/auth/callback", headers={"cookie": f"ramsey-session={marked('cookie')}"}),
            http.get(f"/auth/callback?code={marked('code')}&state={marked('state')}"),
        ]
        for path in ("/health", "/metrics", "/docs", "/redoc", "/openapi.json", "/models", "/admin/nodes"):
            answers.append(http.get(path, headers=good))
        for path in ("/admin/keys", "/admin/audit", "/admin/limits", "/admin/traffic", "/admin/releases", "/auth/me"):
            answers.append(http.get(path, headers=good))
        for address in (f"https://hooks.example/{marked('hook')}", f"ftp://hooks.example/{marked('hook')}"):
            for plan in ({"webhooks": [{"url": address}]}, {"gates": {"webhooks": [address]}}):
                answers.append(http.post("/admin/rollouts", json={"release": "v1.2", "plan": plan}, headers=good))
                assert answers[-1].is_error
        for kind in ("error", "close", "not_json", "busy"):
            node.fail(kind)
            answers.append(http.post("/generate", json=ask, headers=good))
    return answers


def test_nothing_that_comes_out_holds_a_secret(tmp_path: Path) -> None:
    with gateway(tmp_path) as (url, node, log, environment, process):
        answers = asked(url, node)
        assert answers[0].status_code == 200, answers[0].text
        assert [answer.status_code for answer in answers[2:7]] == [401] * 5
        for answer in answers:
            nothing_in(f"{answer.headers}\n{answer.text}", f"The answer to {answer.request.url.path}")
        for each in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
            nothing_in(" ".join(each.cmdline()), "The list of processes")
        for words in (["config", "show"], ["config", "show", "--json"], ["doctor"], ["doctor", "--json"]):
            nothing_in(ramsey(environment, *words), " ".join(words))
        nothing_in(ramsey(environment, "keys", "list"), "keys list")
        _wait_until(lambda: "does not answer" in log.read_text(), "the log tells of the database")
    nothing_in(log.read_text(), "The log")
    nothing_in(log.read_text(errors="replace").replace("\\", ""), "The log")
    for file in (tmp_path / "data").rglob("*"):
        if file.is_file():
            nothing_in(file.read_bytes().decode("latin-1"), str(file))


def ramsey(environment: dict[str, str], *words: str) -> str:
    run = subprocess.run(
        [sys.executable, "-m", "deployment", *words],
        cwd=ROOT / "src",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "Traceback" not in run.stderr, run.stderr
    return run.stdout + run.stderr


def _wait_until(reached: Any, what: str) -> None:
    end = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < end, what
        time.sleep(0.1)


WRONG: list[dict[str, Any]] = [
    {"database": {"url": f"postgresql://ramsey:{MARK}@host:port/x"}},
    {"database": {"url": f"mysql://ramsey:{MARK}@host/x"}},
    {"database": {"url": MARK}},
    {"database": {"url": {"x": MARK}}},
    {"database": {"url": "file:/nowhere", "password": MARK}},
    {"limits": {"redis_url": f"redis://:{MARK}@host:bad"}},
    {"limits": {"redis_url": f"redis://:{MARK}/x@host:1"}},
    {"limits": {"redis_url": f"http://:{MARK}@host"}},
    {"cache": {"enabled": True, "redis_url": MARK}},
    {"pool": {"redis_url": f"redis://:{MARK}#x@host"}},
    {"pool": {"redis_url": MARK}},
    {"pool": {"nodes": [{"name": "n", "url": f"ftp://ramsey:{MARK}@host"}]}},
    {"engine": {"host": f"http://ramsey:{MARK}@host:port"}},
    {"engine": {"host": f"http://ramsey:{MARK}@127.0.0.1:1"}},
    {"access": {"keys": [{"name": "k", "sha256": MARK}]}},
    {"access": {"oidc": [{"issuer": "x", "client_secret": MARK}]}},
    {"secrets": {"vault_token": MARK, "vault_url": f"http://u:{MARK}@127.0.0.1:1"}, "database": {"url": "vault:a#b"}},
    {"server": {"tls_key_password": MARK, "tls_cert": "/nowhere"}},
    {"server": {"port": MARK}},
]


def test_a_plan_shows_no_address_of_a_webhook() -> None:
    address = f"https://hooks.example/{marked('hook')}"
    plan = parse({"webhooks": [{"url": address}], "gates": {"webhooks": [address]}})
    nothing_in(repr(plan) + str(plan), "The plan")


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: "-".join(wrong))
async def test_no_wrong_setting_is_told_with_its_secret(tmp_path: Path, wrong: dict[str, Any]) -> None:
    sections: dict[str, Any] = {"data_dir": str(tmp_path), "model": {"modelfile": None}, **wrong}
    sections["engine"] = {"launch": False, **sections.get("engine", {})}
    try:
        settings = load(**sections)
        nothing_in(repr(settings) + str(settings) + settings.model_dump_json(), "The settings")
        app = create_app(settings)
        async with app.router.lifespan_context(app):
            nothing_in(json.dumps(app.state.services.degraded()), "/health")
    except RamseyError as error:
        nothing_in("".join(traceback.format_exception(error)), "The traceback")
        nothing_in(f"{error.message} {error.hint}", "The error")

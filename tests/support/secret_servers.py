"""Small servers that speak what Ramsey uses of HashiCorp Vault and of AWS Secrets Manager, as documented.

No Vault can be had in this project's tests: these stand for it, down to its statuses and shapes.
"""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeVault:
    """KV version 2 under `secret`, token, AppRole and Kubernetes logins; everything can be changed by a test."""

    def __init__(self) -> None:
        self.url = ""
        self.tokens = {"root-token"}
        self.namespace: str | None = None
        self.secrets: dict[str, dict[str, str]] = {}
        self.logins: list[str] = []

    def answer(self, method: str, path: str, headers: Any, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.namespace is not None and headers.get("X-Vault-Namespace") != self.namespace:
            return 403, {"errors": ["permission denied"]}
        if (login := re.fullmatch(r"/v1/auth/([\w-]+)/login", path)) and method == "POST":
            return self._login(login[1], body)
        if (read := re.fullmatch(r"/v1/secret/data/(.+)", path)) and method == "GET":
            if headers.get("X-Vault-Token") not in self.tokens:
                return 403, {"errors": ["permission denied"]}
            if read[1] not in self.secrets:
                return 404, {"errors": []}
            return 200, {"data": {"data": self.secrets[read[1]], "metadata": {"version": 1, "destroyed": False}}}
        return 404, {"errors": ["no handler for route"]}

    def _login(self, mount: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        rights = {
            "approle": {"role_id": "ramsey", "secret_id": "s3cret"},
            "kubernetes": {"role": "ramsey", "jwt": "service-account-jwt"},
        }
        if body != rights.get(mount):
            return 400, {"errors": ["invalid role or secret ID"]}
        token = f"token-{len(self.logins)}"
        self.logins.append(mount)
        self.tokens.add(token)
        return 200, {"auth": {"client_token": token, "lease_duration": 3600, "renewable": True}}


class FakeAws:
    """Secrets Manager's GetSecretValue."""

    def __init__(self) -> None:
        self.url = ""
        self.secrets: dict[str, str] = {}

    def answer(self, method: str, path: str, headers: Any, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        assert headers["X-Amz-Target"] == "secretsmanager.GetSecretValue"
        assert headers["Authorization"].startswith("AWS4-HMAC-SHA256 ")
        name = body["SecretId"]
        if name not in self.secrets:
            return 400, {"__type": "ResourceNotFoundException", "Message": "Secrets Manager can't find it."}
        return 200, {"Name": name, "SecretString": self.secrets[name], "VersionStages": ["AWSCURRENT"]}


@contextmanager
def served(fake: FakeVault | FakeAws) -> Iterator[ThreadingHTTPServer]:
    """Serve it at `fake.url` until the end."""

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, answer = fake.answer(self.command, self.path, self.headers, json.loads(content or b"{}"))
            told = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        do_GET = do_POST = _any  # noqa: N815 - the names that the library calls

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

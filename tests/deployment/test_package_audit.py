"""scripts/audit against a stand-in of OSV's API, and against nothing."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.support.stack import ROOT, free_port

WRONG = ("jinja2", "2.4.1")
RECORD = {
    "id": "PYSEC-2014-8",
    "aliases": ["CVE-2014-1402"],
    "details": "Temporary files with names that can be foreseen.",
    "affected": [
        {
            "package": {"name": "jinja2", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.7.2"}]}],
            "versions": ["2.4.1"],
        }
    ],
}


@contextmanager
def osv(status: int = 200) -> Iterator[tuple[str, set[str]]]:
    """Its URL, and the names of the packages that it was asked of."""
    asked: set[str] = set()

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.add(query["package"]["name"])
            body = json.dumps(
                {"vulns": [RECORD]} if (query["package"]["name"], query["version"]) == WRONG else {}
            ).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/query", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def audit(*arguments: str) -> tuple[int, str]:
    nowhere = f"http://127.0.0.1:{free_port()}"
    environment = {**os.environ, "HTTPS_PROXY": nowhere, "https_proxy": nowhere, "NO_PROXY": "127.0.0.1"}
    run = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "audit"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=120,
    )
    return run.returncode, run.stdout + run.stderr


def pinned(folder: Path, name: str, version: str) -> str:
    file = folder / "requirements.txt"
    file.write_text(f"{name}=={version} --hash=sha256:{'0' * 64}\n")
    return str(file)


def test_a_known_vulnerability_fails(tmp_path: Path) -> None:
    with osv() as (url, _):
        status, said = audit("--osv-url", url, pinned(tmp_path, *WRONG))
        assert status == 1
        assert "jinja2 2.4.1: PYSEC-2014-8, CVE-2014-1402; mended by 2.7.2." in said
        status, said = audit("--osv-url", url, pinned(tmp_path, "jinja2", "3.1.6"))
        assert (status, said) == (0, "1 packages looked up at osv: none with a known vulnerability.\n")


def test_every_pinned_package_is_asked_for() -> None:
    with osv() as (url, asked):
        status, said = audit("--osv-url", url)
    assert status == 0, said
    assert {"fastapi", "pytest", "asyncpg", "boto3"} <= asked  # of each of the three files
    assert f"{len(asked)} packages looked up" in said


@pytest.mark.parametrize("arguments", [(), ("--osv-url", f"http://127.0.0.1:{free_port()}/v1/query")])
def test_want_of_a_network_is_told_and_is_no_failure(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    file = pinned(tmp_path, *WRONG)
    status, said = audit(*arguments, file)
    assert (status, said.count("\n")) == (0, 1)
    assert said.startswith("Not audited: no database of vulnerabilities can be reached (")


def test_a_database_that_fails_is_away_which_fails_where_it_must_not(tmp_path: Path) -> None:
    with osv(status=503) as (url, _):
        assert audit("--strict", "--osv-url", url, pinned(tmp_path, *WRONG))[0] == 2


def test_what_is_wrong_with_the_files_is_no_want_of_a_network(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("jinja2>=2\n")
    status, said = audit(str(tmp_path / "requirements.txt"))
    assert status == 1
    assert said.startswith("pip-audit failed: ")

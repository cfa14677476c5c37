"""The wire itself, where TLS ends here: looked at with OpenSSL's own client and curl."""

import json
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.attacked import Target, attacked
from tests.support.certificates import write_certificate


@dataclass(frozen=True)
class Secured:
    """A gateway that speaks HTTPS, and the folder of its certificate."""

    target: Target
    folder: Path

    @property
    def certificate(self) -> Path:
        return self.folder / "localhost.crt"

    def connect(self) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=str(self.certificate))
        return context.wrap_socket(
            socket.create_connection(("127.0.0.1", self.target.port), 60), server_hostname="localhost"
        )

    def shown(self) -> str:
        """The certificate that a new connection is shown."""
        return ssl.get_server_certificate(("127.0.0.1", self.target.port), timeout=60)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = write_certificate(folder)
    settings = {"RAMSEY_SERVER__TLS_CERT": str(certificate), "RAMSEY_SERVER__TLS_KEY": str(key)}
    with attacked(folder, **settings) as running:
        yield Secured(running, folder)


def openssl(secured: Secured, *options: str) -> str:
    """What `openssl s_client` says."""
    program = shutil.which("openssl")
    assert program is not None, "the tests need the program openssl"
    command = [
        program,
        "s_client",
        "-connect",
        f"127.0.0.1:{secured.target.port}",
        "-servername",
        "localhost",
        *options,
    ]
    done = subprocess.run(command, input=b"", capture_output=True, timeout=60, check=False)
    return (done.stdout + done.stderr).decode(errors="replace")


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_an_old_version_of_tls(secured: Secured, version: str) -> None:
    told = openssl(secured, version, "-cipher", "ALL:@SECLEVEL=0")
    assert "Cipher is (NONE)" in told or "no protocols available" in told, told
    assert "no peer certificate available" in told or "no protocols available" in told, told


@pytest.mark.parametrize(("version", "name"), [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")])
def test_a_good_version_of_tls(secured: Secured, version: str, name: str) -> None:
    told = openssl(secured, version, "-CAfile", str(secured.certificate))
    assert f"New, {name}" in told or f"Protocol  : {name}" in told, told
    assert "Verify return code: 0 (ok)" in told


@pytest.mark.parametrize(
    "cipher", ["aNULL", "eNULL", "EXPORT", "RC4", "3DES", "DES", "MD5", "PSK", "AES128-SHA", "AES256-SHA"]
)
def test_a_weak_cipher(secured: Secured, cipher: str) -> None:
    told = openssl(secured, "-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0")
    assert "Cipher is (NONE)" in told or "no cipher match" in told or "Error with command" in told, told


def test_renegotiation_and_compression(secured: Secured) -> None:
    told = openssl(secured, "-tls1_2")
    assert "Compression: NONE" in told or "No ALPN negotiated" in told
    assert "Compression: zlib" not in told
    with secured.connect() as wire:
        assert wire.compression() is None


def test_a_protocol_that_is_not_spoken(secured: Secured) -> None:
    """HTTP/2 is not agreed on, and plain HTTP on this port gets no answer of the application."""
    assert "ALPN protocol: http/1.1" in openssl(secured, "-alpn", "h2,http/1.1")
    assert b"HTTP/1.1 200" not in secured.target.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", end=True)


def test_a_browser_led_back_to_plain_http(secured: Secured) -> None:
    """HSTS, as curl sees it: with every answer, errors too."""
    program = shutil.which("curl")
    assert program is not None, "the tests need the program curl"
    for path in ("/health", "/nowhere", "/models"):
        command = [program, "--silent", "--show-error", "--include", "--cacert", str(secured.certificate)]
        command += [
            f"https://localhost:{secured.target.port}{path}",
            "--resolve",
            f"localhost:{secured.target.port}:127.0.0.1",
        ]
        told = subprocess.run(command, capture_output=True, timeout=60, check=True).stdout.lower()
        assert b"strict-transport-security: max-age=31536000" in told


def test_a_handshake_that_never_ends(secured: Secured) -> None:
    """It holds nobody up; the others are served beside it."""
    with socket.create_connection(("127.0.0.1", secured.target.port), 60) as wire:
        wire.sendall(b"\x16\x03\x01\x02\x00\x01")
        with secured.connect() as other:
            other.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert other.recv(12) == b"HTTP/1.1 200"


def test_a_certificate_renewed_under_a_running_stream(secured: Secured) -> None:
    """The stream goes on to its end, and new connections are shown the new one; half a renewal changes nothing."""
    first = secured.shown()
    slow = secured.target.node.inference
    slow.token_delay_s, slow.tokens = 0.05, 2000
    try:
        body = json.dumps({"prompt": "Hello stream", "stream": True, "max_tokens": 2000}).encode()
        with secured.connect() as wire:
            wire.sendall(secured.target.signed("POST", "/generate", body=body))
            told = wire.recv(65536)
            while b"data: " not in told:
                told += wire.recv(65536)
            write_certificate(secured.folder)
            end = time.monotonic() + 60
            while secured.shown() == first:
                assert time.monotonic() < end
                time.sleep(0.1)
            slow.token_delay_s = 0.0
            while part := wire.recv(65536):
                told += part
        assert told.count(b'"done":true') == 1
    finally:
        slow.token_delay_s, slow.tokens = 0.0, None
    assert secured.shown() == secured.certificate.read_text()

"""TLS where we end it."""

import asyncio
import ssl
import warnings
from pathlib import Path

import httpx
import pytest
from tests.support.certificates import write_certificate
from tests.support.fake_node import FakeNode
from tests.support.serving import serving

from deployment.errors import ConfigurationError, StartupError
from deployment.gateway.listener import server_config
from deployment.gateway.listener.tls import Certificates
from deployment.settings import ServerSettings, load


async def _nothing(*_: object) -> None: ...


def told(certificate: Path, key: Path | None = None) -> str:
    with pytest.raises(StartupError) as raised:
        server_config(_nothing, ServerSettings(tls_cert=certificate, tls_key=key)).load()
    return raised.value.message


async def served_serial(port: int) -> str:
    """What a new connection is shown, with the connection closed again."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return ssl.DER_cert_to_PEM_cert(shown)


async def test_requests_are_answered_over_tls_and_browsers_are_told_to_stay(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    server = {"tls_cert": certificate, "tls_key": key, "hsts_seconds": 600}
    async with FakeNode() as node, serving(node.url, server=server) as (url, _):
        assert url.startswith("https://")
        context = ssl.create_default_context(cafile=str(certificate))
        async with httpx.AsyncClient(base_url=url.replace("127.0.0.1", "localhost"), verify=context) as http:
            for path in ("/health", "/nowhere", "/docs"):
                assert (await http.get(path)).headers["strict-transport-security"] == "max-age=600"
            answer = await http.post("/generate", json={"prompt": "Hello"})
            assert answer.status_code == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_what_is_older_than_tls_1_2_is_refused(tmp_path: Path, version: ssl.TLSVersion) -> None:
    certificate, key = write_certificate(tmp_path)
    async with FakeNode() as node, serving(node.url, server={"tls_cert": certificate, "tls_key": key}) as (url, _):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings(action="ignore"):
            context.minimum_version = context.maximum_version = version
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]), ssl=context)


async def test_without_tls_browsers_are_told_nothing() -> None:
    async with FakeNode() as node, serving(node.url) as (url, _), httpx.AsyncClient() as http:
        assert "strict-transport-security" not in (await http.get(f"{url}/health")).headers


async def test_a_renewed_certificate_is_shown_without_a_restart(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    async with FakeNode() as node, serving(node.url, server={"tls_cert": certificate, "tls_key": key}) as (url, _):
        port = int(url.rpartition(":")[2])
        first = await served_serial(port)
        assert first == certificate.read_text()
        write_certificate(tmp_path)
        async with asyncio.timeout(20):
            while await served_serial(port) == first:
                await asyncio.sleep(0.1)
        assert await served_serial(port) == certificate.read_text()


async def test_half_a_renewal_changes_nothing(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    certificates = Certificates(certificate, key)
    first, old_key = certificate.read_text(), key.read_bytes()
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0, ssl=certificates.context)
    port = server.sockets[0].getsockname()[1]
    write_certificate(tmp_path)
    new_key = key.read_bytes()
    key.write_bytes(old_key)  # the certificate is new already, its key not yet
    await certificates.renew()
    assert await served_serial(port) == first
    key.unlink()
    await certificates.renew()
    assert await served_serial(port) == first
    key.write_bytes(new_key)
    await certificates.renew()
    assert await served_serial(port) == certificate.read_text() != first
    server.close()


def test_what_is_wrong_with_the_files_is_told(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    _, other = write_certificate(tmp_path, "other")
    _, closed = write_certificate(tmp_path, "closed", b"sesame")
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("-----BEGIN CERTIFICATE-----\nrubbish\n-----END CERTIFICATE-----\n")
    nowhere = tmp_path / "nowhere.pem"
    assert told(nowhere) == f"server.tls_cert: cannot read {nowhere}: No such file or directory."
    assert told(certificate, nowhere) == f"server.tls_key: cannot read {nowhere}: No such file or directory."
    assert told(key, key) == f"server.tls_cert: {key} holds no certificate in PEM."
    assert told(certificate, certificate) == f"server.tls_key: {certificate} holds no private key in PEM."
    assert f"the key in {other} does not belong to the certificate in {certificate}" in told(certificate, other)
    assert "is encrypted, and server.tls_key_password is not set" in told(certificate, closed)
    assert told(rubbish, key).startswith(f"server.tls_cert: {rubbish} and {key} cannot be used")
    assert told(certificate) == f"server.tls_key is not set, and {certificate} holds no private key."


def test_an_encrypted_key_is_opened_by_its_password(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path, password=b"sesame")
    assert Certificates(certificate, key, "sesame").context
    with pytest.raises(StartupError, match="does not open it"):
        Certificates(certificate, key, "wrong")


def test_certificate_and_key_may_be_in_one_file(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    certificate.write_bytes(certificate.read_bytes() + key.read_bytes())
    assert Certificates(certificate, None).context


def test_a_key_without_a_certificate_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="tls_key needs tls_cert"):
        load(server={"tls_key": tmp_path / "key.pem"})

"""TLS where we end it: the certificate, read again when its files change."""

import asyncio
import ssl
from pathlib import Path

import structlog
from cryptography import x509

from deployment.clock import SystemClock
from deployment.errors import StartupError

_SOON_DAYS = 14

_log = structlog.get_logger("tls")


class Certificates:
    """The certificate of a server. Construction reads it; raises StartupError that names the wrong file."""

    def __init__(self, certificate: Path, key: Path | None, password: str | None = None) -> None:
        self._certificate, self._key, self._password = certificate, key, password
        self._stamp = self._look()
        self._newest = self._load()
        self.context = self._load()
        """For the listening socket. Each handshake takes what was read last: one that is half written never counts."""
        self.context.sni_callback = self._choose

    async def renew(self) -> None:
        """Read the files again where they have changed. What cannot be used is logged, and the old one stays."""
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return
            self._stamp = stamp
            self._newest = await asyncio.to_thread(self._load)
        except StartupError as error:
            _log.error("the new certificate cannot be used; the old one stays", reason=error.message)
        else:
            _log.info("the certificate was renewed", file=str(self._certificate))

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._newest

    def _look(self) -> tuple[tuple[int, int, int], ...]:
        return tuple(_stamp(path, name) for path, name in self._files())

    def _files(self) -> list[tuple[Path, str]]:
        key = [(self._key, "server.tls_key")] if self._key else []
        return [(self._certificate, "server.tls_cert"), *key]

    def _load(self) -> ssl.SSLContext:
        for path, name in self._files():
            _require_pem(path, name)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        try:
            # Without a password, OpenSSL would ask at the terminal.
            context.load_cert_chain(self._certificate, self._key, password=self._password or "")
        except (OSError, ValueError) as error:
            raise self._explained(error) from None
        self._warn_of_its_end()
        return context

    def _explained(self, error: Exception) -> StartupError:
        key = self._key or self._certificate
        content = key.read_bytes()
        reason = getattr(error, "reason", None) or error
        if b"PRIVATE KEY-----" not in content:
            text = f"server.tls_key is not set, and {key} holds no private key."
            return StartupError(text, hint="Name the key's file: RAMSEY_SERVER__TLS_KEY=/PATH/TO/KEY.pem")
        if reason == "KEY_VALUES_MISMATCH":
            text = f"server.tls_key: the key in {key} does not belong to the certificate in {self._certificate}."
            return StartupError(
                text, hint="Name the key that the certificate was made for, and its own certificate first."
            )
        if b"ENCRYPTED" in content and self._password is None:
            text = f"server.tls_key: {key} is encrypted, and server.tls_key_password is not set."
            return StartupError(text, hint="Set RAMSEY_SERVER__TLS_KEY_PASSWORD, for instance to file:/PATH.")
        if b"ENCRYPTED" in content:
            text = f"server.tls_key: {key} is encrypted, and server.tls_key_password does not open it."
            return StartupError(text, hint=f"Try it by hand: openssl pkey -noout -in {key}")
        text = f"server.tls_cert: {self._certificate} and {key} cannot be used: {reason}."
        return StartupError(text, hint=f"Look into them: openssl x509 -noout -text -in {self._certificate}")

    def _warn_of_its_end(self) -> None:
        try:
            end = x509.load_pem_x509_certificate(self._certificate.read_bytes()).not_valid_after_utc
        except (OSError, ValueError):
            return  # OpenSSL took it: that is what counts
        days = (end - SystemClock().now()).days
        if days < _SOON_DAYS:
            _log.warning("the certificate ends soon" if days >= 0 else "the certificate has ended", end=end.isoformat())


def _stamp(path: Path, name: str) -> tuple[int, int, int]:
    try:
        told = path.stat()
    except OSError as error:
        raise _unreadable(path, name, error) from None
    return told.st_mtime_ns, told.st_size, told.st_ino


def _unreadable(path: Path, name: str, error: OSError) -> StartupError:
    hint = f"Correct {name}, or let the user that Ramsey runs as read the file."
    return StartupError(f"{name}: cannot read {path}: {error.strerror or error}.", hint=hint)


def _require_pem(path: Path, name: str) -> None:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, name, error) from None
    what = "a certificate" if name == "server.tls_cert" else "a private key"
    needed = b"CERTIFICATE-----" if name == "server.tls_cert" else b"PRIVATE KEY-----"
    if needed not in content:
        raise StartupError(f"{name}: {path} holds no {what[2:]} in PEM.", hint=f"Name a file with {what} in PEM.")

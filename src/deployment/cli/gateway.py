"""The command line as a client of a gateway: blocking calls, so that Ctrl-C works at once."""

import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

from deployment.errors import ConfigurationError, EngineUnavailable, RamseyError, StreamIncomplete

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import SecretStr

    from deployment.settings import ServerSettings

_Kind = TypeVar("_Kind", dict[str, Any], list[Any])


def address(server: "ServerSettings") -> str:
    """The URL at which this machine reaches the server of these settings."""
    scheme = "https" if server.tls_cert else "http"
    host, port = server.host, server.port
    if host in {"0.0.0.0", "::", "127.0.0.1", "localhost", ""}:  # noqa: S104 - compared, not bound
        host = "localhost"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


class Gateway:
    """A gateway at `url`. `timeout_s` bounds connecting and every silence.

    `certificate` is the file of a server on this machine: it is trusted, whatever name it is for.
    """

    def __init__(
        self,
        url: str,
        key: "SecretStr | None" = None,
        timeout_s: float = 180.0,
        certificate: "Path | None" = None,
    ) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise ConfigurationError(f"{url!r} is no address of a gateway.", hint="Write http://HOST:PORT.")
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._base = parts.path.rstrip("/")
        self._key = key
        self._certificate = certificate
        self._timeout_s = timeout_s

    def get(self, path: str) -> dict[str, Any]:
        """The object at `path`. Raises the gateway's own error."""
        with self._asked("GET", path, None) as response:
            return _object(response)

    def text(self, path: str) -> str:
        """What is at `path`, as it is."""
        with self._asked("GET", path, None) as response:
            return response.read().decode(errors="replace")

    def items(self, path: str) -> list[dict[str, Any]]:
        """The list at `path`."""
        with self._asked("GET", path, None) as response:
            return [entry for entry in _read(response, list) if isinstance(entry, dict)]

    def status(self, path: str) -> tuple[int, dict[str, Any]]:
        """As `get`, but a status of 400 and more is no error."""
        with self._asked("GET", path, None, checked=False) as response:
            return response.status, _object(response)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to `body`, whole."""
        with self._asked("POST", path, body) as response:
            return _object(response)

    def post_items(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The list that answers `body`."""
        with self._asked("POST", path, body) as response:
            return [entry for entry in _read(response, list) if isinstance(entry, dict)]

    def put(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to `body`, which replaces what is at `path`."""
        with self._asked("PUT", path, body) as response:
            return _object(response)

    def send(self, path: str, file: BinaryIO, size: int) -> dict[str, Any]:
        """The answer to a file of `size` bytes, put at `path`."""
        with self._asked("PUT", path, file, size=size) as response:
            return _object(response)

    def delete(self, path: str) -> None:
        """Delete what is at `path`."""
        with self._asked("DELETE", path, None) as response:
            response.read()

    def stream(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The pieces of a streamed answer; the last one has `done`. Closing it stops the answer."""
        with self._asked("POST", path, body | {"stream": True}) as response:
            failed = False
            for line in response:
                name, _, value = line.decode().strip().partition(": ")
                if name == "event":
                    failed = value == "error"
                elif name == "data":
                    piece = json.loads(value)
                    if failed:
                        raise told_error(piece)
                    yield piece
                    if piece.get("done"):
                        return
        raise StreamIncomplete("The answer ended without its end marker; it may be cut.")

    @contextmanager
    def _asked(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | BinaryIO | None,
        *,
        checked: bool = True,
        size: int | None = None,
    ) -> Iterator[HTTPResponse]:
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        connection: HTTPConnection
        if parts.scheme == "https":
            connection = HTTPSConnection(host, parts.port, timeout=self._timeout_s, context=_trust(self._certificate))
        else:
            connection = HTTPConnection(host, parts.port, timeout=self._timeout_s)
        headers = {"Content-Type": "application/json"} if isinstance(body, dict) else {}
        if size is not None:
            headers |= {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        try:
            connection.request(method, self._base + path, json.dumps(body) if isinstance(body, dict) else body, headers)
            response = connection.getresponse()
            if checked and response.status >= 400:
                raise told_error(_object(response))
            yield response
        except (ConnectionRefusedError, socket.gaierror):
            raise EngineUnavailable(f"No gateway answers at {self.url}.", hint="Start one: ramsey up") from None
        except ssl.SSLCertVerificationError as error:
            raise EngineUnavailable(
                f"The certificate of {self.url} is not trusted: {error.verify_message}.",
                hint="Name the certificate of who signed it: SSL_CERT_FILE=PATH.",
            ) from None
        except TimeoutError:
            raise EngineUnavailable(f"The gateway at {self.url} was silent for {self._timeout_s:g} s.") from None
        except (OSError, HTTPException) as error:
            raise EngineUnavailable(f"The connection to {self.url} broke: {error or type(error).__name__}.") from None
        finally:
            connection.close()


def _trust(certificate: "Path | None") -> ssl.SSLContext:
    context = ssl.create_default_context()
    if certificate is not None:
        context.check_hostname = False  # it is for the name that others use
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # itself is enough, without who signed it
        try:
            context.load_verify_locations(certificate)
        except OSError as error:
            raise ConfigurationError(f"server.tls_cert: {certificate} cannot be used: {error}.") from None
    return context


def _object(response: HTTPResponse) -> dict[str, Any]:
    return _read(response, dict) if response.status != 204 else {}


def _read(response: HTTPResponse, kind: type[_Kind]) -> _Kind:
    content = response.read()
    try:
        value = json.loads(content)
    except ValueError:
        value = None
    if not isinstance(value, kind):
        raise RamseyError(f"What answers is no Ramsey gateway (status {response.status}).", hint="Check --url.")
    return value


def told_error(body: dict[str, Any]) -> RamseyError:
    """The error of a body, as the gateway told it."""
    error = body.get("error")
    if not isinstance(error, dict):
        return RamseyError(f"The gateway failed: {str(body)[:200]}")
    hint = error.get("hint")
    if error.get("code") == "unauthenticated":
        hint = "Set RAMSEY_API_KEY to a key of this gateway."
    told = RamseyError(str(error.get("message")), hint=hint)
    told.code = str(error.get("code"))
    return told

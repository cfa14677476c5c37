"""The gateway's socket, the model that it serves, and the answers that it keeps."""

import re
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, IPvAnyNetwork, SecretStr, model_validator

from deployment.settings.section import Seconds, Section

_DEFAULT_PORTS = {"https": 443, "http": 80}


def _origin(url: str) -> str:
    """As browsers write an origin. Plain HTTP is for this machine alone: cookies would cross a network in clear."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    host = parts.hostname or ""
    local = host in {"localhost", "127.0.0.1", "::1"}
    name = f"[{host}]" if ":" in host else host
    shown = f"{parts.scheme}://{name}" + ("" if port in {None, _DEFAULT_PORTS.get(parts.scheme)} else f":{port}")
    right = parts.scheme == "https" or (parts.scheme == "http" and local)
    if not right or not re.fullmatch(r"[a-z0-9.:-]+", host) or parts.path not in {"", "/"} or "@" in parts.netloc:
        raise ValueError("write https://HOST or https://HOST:PORT, or http://localhost:PORT on this machine")
    if parts.query or parts.fragment:
        raise ValueError("write it without a query")
    return shown


class ServerSettings(Section):
    """The gateway's own socket."""

    host: str = Field("127.0.0.1", description="Address to listen on. Beyond loopback, callers need a key.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    max_body_bytes: int = Field(
        4 * 1024 * 1024, ge=1024, description="Largest request body, in bytes; more is refused with 413."
    )
    public_url: Annotated[str, AfterValidator(_origin)] | None = Field(
        None,
        description="Where browsers reach the gateway, for instance https://llm.example.com, without a path. "
        "Signing in needs it.",
    )
    drain_seconds: Seconds = Field(
        30.0, description="At SIGTERM, how long streams in flight may go on before they are cut."
    )
    drain_notice_seconds: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="At SIGTERM, how long to go on taking requests while /health/ready already says 503, "
        "so that a load balancer can notice, in seconds.",
    )
    slow_client_seconds: Seconds = Field(
        30.0,
        description="How long a caller may take to send its body, or read none of its answer, in seconds.",
    )
    slow_head_seconds: Seconds = Field(
        10.0, description="How long a caller may take to send the head of a request, in seconds."
    )
    max_connections: int = Field(10_000, ge=1, description="Connections at the same time; more are refused with 503.")
    documents: bool = Field(True, description="Show /docs, /redoc and /openapi.json to anybody.")
    trusted_proxies: tuple[IPvAnyNetwork, ...] = Field(
        (),
        description="Networks of proxies whose Forwarded and X-Forwarded-For headers are believed, for instance "
        "10.0.0.0/8.",
    )
    tls_cert: Path | None = Field(
        None, description="Certificate (chain) in PEM: speak HTTPS. Read again when the file changes."
    )
    tls_key: Path | None = Field(None, description="Its private key in PEM; by default in the certificate's file.")
    tls_key_password: SecretStr | None = Field(None, description="What opens the key, where it is encrypted.")
    hsts_seconds: int = Field(
        31_536_000,
        ge=0,
        description="With tls_cert: how long browsers shall come by HTTPS alone, in seconds; 0 does not tell them.",
    )

    @model_validator(mode="after")
    def _a_key_has_a_certificate(self) -> Self:
        if self.tls_cert is None and (self.tls_key or self.tls_key_password):
            raise ValueError("tls_key needs tls_cert beside it")
        return self


class ModelSettings(Section):
    """The model that is served, and the bounds of a request for it."""

    name: str = Field(
        "ramsey-model",
        pattern=r"^[a-z0-9_][a-z0-9_.-]{0,79}$",
        description="The name that callers ask for; lower case, without a tag.",
    )
    modelfile: Annotated[Path | None, BeforeValidator(lambda value: None if value in ("", "none") else value)] = Field(
        Path("models/ollama/Modelfile"),
        description="Modelfile of the release to deploy at start; `none` to serve what the nodes hold already.",
    )
    release: str | None = Field(
        None,
        pattern=r"^[a-z0-9_][a-z0-9_.-]{0,79}$",
        description="Tag of the release to serve, for instance v1.1; by default the Modelfile's own version.",
    )
    max_prompt_chars: int = Field(
        200_000, ge=1, description="Longest prompt (all messages together), in characters; more gives 413."
    )
    max_tokens: int = Field(
        4096, ge=1, description="Most tokens that a request may ask for; a larger wish is lowered to this."
    )
    keep_alive: int | str = Field(
        -1,
        union_mode="left_to_right",  # "-1" from a variable is a number: engines refuse the text
        description="How long nodes keep the model loaded: seconds, a duration such as 30m, or -1 for ever.",
    )


class CacheSettings(Section):
    """Answers of deterministic requests (temperature 0 or a seed, no tools), kept per tenant and release."""

    enabled: bool = Field(True, description="Keep answers, and let identical requests that overlap share one.")
    max_bytes: int = Field(32 * 1024 * 1024, ge=0, description="Memory for answers in this process, in bytes.")
    ttl_seconds: Seconds = Field(3600.0, description="How long an answer is kept, in seconds.")
    redis_url: SecretStr | None = Field(
        None, description="Keep answers in this Redis, shared by gateways; else in memory."
    )
    semantic: bool = Field(False, description="Also answer from a question that means the same, by its embedding.")
    semantic_threshold: float = Field(
        0.97, ge=0, le=1, description="Least cosine of two questions that count as the same."
    )
    semantic_entries: int = Field(256, ge=1, le=4096, description="Questions remembered for each scope.")

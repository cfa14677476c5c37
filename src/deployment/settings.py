"""Every setting, read once: `ramsey.toml`, then `RAMSEY_*` variables over it.

Nested settings are reached with two underscores: `RAMSEY_SERVER__PORT=9000` is `[server] port = 9000`.
This is the only module that reads the environment. `docs/configuration.md` is checked against it by a test.
"""

import difflib
import os
import re
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from deployment.errors import ConfigurationError

CONFIG_FILE = "ramsey.toml"
OTHER_VARIABLES = {
    "RAMSEY_CONFIG": "The settings file; by default ramsey.toml in the working directory.",
    "RAMSEY_API_KEY": "The key with which the command line calls a gateway.",
}
"""Variables that are no settings."""
_SHA256 = r"^[0-9a-f]{64}$"
# A Kubernetes Service or Docker link called ramsey-… puts RAMSEY_…_PORT into containers beside it.
_SERVICE_LINK = re.compile(
    r"_SERVICE_HOST=|_SERVICE_PORT(_\w+)?=\d+$|_PORT(_\d+_\w+)?=(tcp|udp)://|_PORT_\d+_(TCP|UDP)_"
)


class Profile(StrEnum):
    """Where Ramsey runs. Only development lets an anonymous caller in, and only from loopback."""

    DEVELOPMENT = "development"
    STAGING = "staging"
    PRODUCTION = "production"


class EngineKind(StrEnum):
    """Which engine answers."""

    AUTO = "auto"
    OLLAMA = "ollama"
    EMBEDDED = "embedded"


class Section(BaseModel):
    """A part of the settings: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ServerSettings(Section):
    """The gateway's own socket."""

    host: str = Field("127.0.0.1", description="Address to listen on. Beyond loopback, callers need a key.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    max_body_bytes: int = Field(
        4 * 1024 * 1024, ge=1024, description="Largest request body, in bytes; more is refused with 413."
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


class EngineSettings(Section):
    """The engine, and how long it may take."""

    kind: EngineKind = Field(
        EngineKind.AUTO,
        description="auto: an Ollama that answers at the host, else an `ollama` on the PATH, else embedded.",
    )
    host: str = Field(
        "http://127.0.0.1:11434",
        description="Where the engine answers, or where one is started. OLLAMA_HOST is its default.",
    )
    launch: bool = Field(
        True, description="Start an engine as a child process when none answers at the host (loopback only)."
    )
    models_dir: Path | None = Field(
        None,
        description="Model store of an engine that Ramsey starts. OLLAMA_MODELS, else <data_dir>/models.",
    )
    num_parallel: int = Field(4, ge=1, le=256, description="Slots of a model on an engine that Ramsey starts.")
    max_loaded_models: int = Field(
        3, ge=1, le=64, description="Models (releases) loaded at once on an engine that Ramsey starts."
    )
    max_queue: int = Field(512, ge=1, description="Requests that wait for a load on an engine that Ramsey starts.")
    context_length: int = Field(
        4096, ge=64, description="Context of a slot in tokens, where the model's own does not say less."
    )
    threads: int = Field(0, ge=0, description="CPU threads of the embedded engine; 0 takes every core but one.")
    gpu_layers: int = Field(-1, ge=-1, description="Layers that the embedded engine puts on a GPU; -1 lets it choose.")
    stall_timeout: Seconds = Field(
        60.0,
        description="A runner of the embedded engine that hangs in one step for so many seconds is ended; "
        "more than a batch of a prompt (512 tokens) takes.",
    )
    start_timeout: Seconds = Field(60.0, description="How long an engine may take until it answers, in seconds.")
    connect_timeout: Seconds = Field(3.0, description="Connecting to a node, in seconds.")
    first_token_timeout: Seconds = Field(
        120.0, description="From a request to its first token, a load of the model included, in seconds."
    )
    token_timeout: Seconds = Field(30.0, description="Longest silence between two tokens, in seconds.")
    request_timeout: Seconds = Field(600.0, description="A whole request, in seconds.")


class PlacementPolicy(StrEnum):
    """How a node is chosen among those that may serve."""

    LEAST_EXPECTED_TTFT = "least_expected_ttft"
    LEAST_OUTSTANDING = "least_outstanding"
    ROUND_ROBIN = "round_robin"
    WEIGHTED = "weighted"
    RANDOM_OF_TWO = "random_of_two"
    SESSION = "session"


class NodeSettings(Section):
    """One engine endpoint."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}$",
        description="What the node is called in views and metrics.",
    )
    url: str = Field(pattern=r"^https?://[^/\s]+$", description="Where it answers, for instance http://10.0.0.5:11434.")
    labels: dict[str, str] = Field(default_factory=dict, description="Free labels; `region` counts in placement.")
    weight: float = Field(1.0, gt=0, le=1000, description="Share of the traffic under the policy `weighted`.")
    slots: int | None = Field(
        None, ge=1, le=256, description="OLLAMA_NUM_PARALLEL of the node; by default engine.num_parallel."
    )


class PoolSettings(Section):
    """The nodes that serve together, and how work is shared among them."""

    nodes: tuple[NodeSettings, ...] = Field((), description="The nodes; when empty, the one at engine.host.")
    dns: tuple[str, ...] = Field(
        (),
        description="Names whose addresses are nodes, resolved again and again: host:port (A and AAAA "
        "records) or _service._tcp.name (SRV records, extra `dns`).",
    )
    dns_interval: Seconds = Field(10.0, description="Time between two look-ups of the DNS names, in seconds.")
    region: str | None = Field(
        None,
        description="This gateway's region: nodes with that label first, others when those are full or down.",
    )
    policy: PlacementPolicy = Field(
        PlacementPolicy.LEAST_EXPECTED_TTFT, description="How a node is chosen among those that may serve."
    )
    affinity_seconds: float = Field(
        2.0,
        ge=0,
        allow_inf_nan=False,
        description="How much longer a request may wait for the node that holds its conversation, in seconds.",
    )
    affinity_blocks: int = Field(
        8192,
        ge=0,
        description="Blocks of 64 characters remembered per node for prefix affinity; 0 turns it off.",
    )
    queue_size: int = Field(1000, ge=0, description="Requests that may wait for a slot; more are refused with 429.")
    queue_timeout: Seconds = Field(
        60.0, description="How long a request may wait for a slot, in seconds; then it is refused with 503."
    )
    batch_share: int = Field(
        10,
        ge=2,
        description="While interactive requests wait, one of so many slots still goes to batch work.",
    )
    look_ahead: int = Field(
        1, ge=0, le=16, description="Requests sent to a node beyond its slots, so that no slot idles."
    )
    attempts: int = Field(3, ge=1, le=10, description="Tries of one request on different nodes before its first byte.")
    hedge_share: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="Share of requests whose late first token is asked of a second node too; 0 is none.",
    )
    breaker_failures: int = Field(3, ge=1, description="Failures in a row that take a node out.")
    breaker_ratio: float = Field(
        0.5, gt=0, le=1, description="Share of failures in a node's last 20 requests that takes it out."
    )
    breaker_backoff: Seconds = Field(
        1.0, description="Time until a node that was taken out is tried again, in seconds; doubles each time."
    )
    breaker_max_backoff: Seconds = Field(30.0, description="Longest such time, in seconds.")
    health_interval: Seconds = Field(5.0, description="Time between two checks of a node, in seconds.")
    health_timeout: Seconds = Field(
        10.0, description="How long a node may take for each step of a check, a token's generation included."
    )
    engine_version: str | None = Field(
        None,
        description="Ollama version that every node must run; by default any, but differences are shown.",
    )
    load_timeout: Seconds = Field(600.0, description="How long a node may take to load a release, in seconds.")
    redis_url: SecretStr | None = Field(
        None, description="Redis through which several gateways share the nodes' slots (extra `redis`)."
    )
    replicas: int = Field(
        1, ge=1, description="Gateways that share the nodes: what each takes of them while Redis is away."
    )
    lease_seconds: Seconds = Field(
        10.0, description="Silence after which a gateway's share of the slots is given to others, in seconds."
    )

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [node.name for node in self.nodes]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two nodes are called {twice[0]}")
        return self


class ApiKey(Section):
    """One key that may call. Only its SHA-256 is known here: `ramsey keys create --print-config` makes both."""

    name: str = Field(min_length=1, max_length=64, description="Who holds the key; appears in logs.")
    sha256: str = Field(pattern=_SHA256, description="SHA-256 of the key, in hex.")
    tenant: str = Field("default", min_length=1, max_length=64, description="The tenant that the key belongs to.")
    roles: tuple[Literal["viewer", "user", "operator", "admin"], ...] = Field(
        ("user",), min_length=1, description="What the key may do: viewer, user, operator, admin."
    )


class OidcProvider(Section):
    """An OpenID Connect provider whose access tokens are accepted."""

    issuer: str = Field(
        pattern=r"^(https://|http://(localhost|127\.0\.0\.1|\[::1\])[:/])",
        description="The provider's issuer URL, as its tokens say it.",
    )
    audience: tuple[str, ...] = Field(min_length=1, description="A token must be for one of these.")
    algorithms: tuple[
        Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"], ...
    ] = Field(("RS256", "PS256", "ES256", "EdDSA"), min_length=1, description="How a token may be signed.")
    leeway_seconds: int = Field(60, ge=0, le=300, description="How far clocks may differ, in seconds.")
    tenant: str = Field("default", max_length=64, description="The tenant of its callers, without a tenant_claim.")
    tenant_claim: str | None = Field(None, description="The claim that names the tenant; dots reach into objects.")
    roles: tuple[str, ...] = Field(("user",), description="Roles of everybody with a valid token.")
    roles_claim: str = Field("roles", description="The claim that lists roles or groups; dots reach into objects.")
    role_map: dict[str, str] = Field(
        default_factory=dict, description="From an entry of roles_claim to a role here; others give nothing."
    )


class AccessSettings(Section):
    """Who may call."""

    keys: tuple[ApiKey, ...] = Field((), description="Keys that may call, besides the stored ones.")
    oidc: tuple[OidcProvider, ...] = Field((), description="Providers whose access tokens are accepted.")
    cors_origins: tuple[str, ...] = Field((), description="Web origins whose pages may call; none by default.")
    offline_seconds: Seconds = Field(
        3600.0,
        description="How long stored keys go on working while the database cannot be reached, in seconds.",
    )

    @model_validator(mode="after")
    def _each_key_once(self) -> Self:
        if len({provider.issuer for provider in self.oidc}) < len(self.oidc):
            raise ValueError("two OpenID Connect providers have the same issuer")
        for what in ("name", "sha256"):
            values = [getattr(key, what) for key in self.keys]
            if repeated := {value for value in values if values.count(value) > 1}:
                raise ValueError(f"two keys have the {what} {min(repeated)}")
        return self


Money = Annotated[float, Field(ge=0.000001, le=1e9, allow_inf_nan=False)]


class LimitSet(Section):
    """What one caller, tenant or model may have; empty for no limit."""

    requests_per_minute: int | None = Field(None, ge=1, description="Requests in any 60 seconds.")
    tokens_per_minute: int | None = Field(None, ge=1, description="Tokens, prompts and answers, in any 60 seconds.")
    concurrent: int | None = Field(None, ge=1, description="Requests at the same time.")
    tokens_per_day: int | None = Field(None, ge=1, description="Budget of tokens for a day, by UTC.")
    tokens_per_month: int | None = Field(None, ge=1, description="Budget of tokens for a calendar month, by UTC.")
    money_per_day: Money | None = Field(None, description="Budget of money for a day, by UTC, by limits.prices.")
    money_per_month: Money | None = Field(None, description="Budget of money for a calendar month, by UTC.")
    max_prompt_chars: int | None = Field(None, ge=1, description="Longest prompt, in characters.")
    max_output_tokens: int | None = Field(None, ge=1, description="Longest answer, in tokens.")


class Price(Section):
    """What 1,000 tokens of a model cost."""

    prompt: float = Field(ge=0, le=1e6, allow_inf_nan=False, description="1,000 tokens of prompts.")
    completion: float = Field(ge=0, le=1e6, allow_inf_nan=False, description="1,000 tokens of answers.")


class LimitsSettings(Section):
    """How much callers may have."""

    key: LimitSet = Field(default_factory=LimitSet, description="Of each key (and of each other caller).")
    tenant: LimitSet = Field(default_factory=LimitSet, description="Of each tenant, all its keys together.")
    model: LimitSet = Field(default_factory=LimitSet, description="Of each tenant, on each model.")
    redis_url: SecretStr | None = Field(
        None, description="Count limits in this Redis, shared by several gateways; else in this process."
    )
    budget_alert: float = Field(
        0.8, gt=0, le=1, description="Part of a budget at whose use a warning is logged, once in its period."
    )
    gateways: int = Field(
        1, ge=1, description="How many gateways share the limits; each takes its share while Redis is away."
    )
    prices: dict[str, Price] = Field(
        default_factory=dict,
        description="What models cost, by their names, `*` for all others: prompt and completion, for 1,000 tokens "
        "each, in one currency of your own. Without a price, a model is free.",
    )

    @model_validator(mode="after")
    def _money_needs_prices(self) -> Self:
        if not self.prices and any(
            one.money_per_day or one.money_per_month for one in (self.key, self.tenant, self.model)
        ):
            raise ValueError("a budget of money needs limits.prices")
        return self


class ReleasesSettings(Section):
    """Where releases are kept, and what may judge them."""

    folder: Path | None = Field(
        None,
        description="Where the weights of releases are kept, each under its SHA-256; by default `releases` in the data "
        "directory. Several gateways should share it.",
    )
    max_bytes: int = Field(
        200 * 1024**3, ge=1024, description="Largest file of weights that may be uploaded or kept, in bytes."
    )
    keep: int = Field(
        3, ge=1, le=100, description="Releases of a model that stay on the nodes beside those with traffic, the newest."
    )
    stall_seconds: Seconds = Field(
        60.0, description="How long an upload to a node, or to the gateway, may stand still, in seconds."
    )
    questions: Path | None = Field(
        None,
        description="Questions with known answers, by which releases are evaluated, one JSON object a line; by default "
        "the eval.jsonl beside the Modelfile, where there is one.",
    )
    webhook_hosts: tuple[str, ...] = Field(
        (), description="Hosts that webhooks of gates may call, for instance ci.example.com; none by default."
    )
    gates_folder: Path | None = Field(
        None, description="Folder of the executables that may be gates; without it there are none."
    )


class DatabaseSettings(Section):
    """Where the state is kept."""

    url: SecretStr | None = Field(
        None,
        description="postgresql://USER:PASSWORD@HOST/DATABASE, or sqlite:///PATH; by default a SQLite file "
        "ramsey.db in the data directory.",
    )


class SecretsSettings(Section):
    """Where secrets come from: each may say env:NAME, file:/PATH, vault:PATH#FIELD or aws:NAME#FIELD."""

    refresh_seconds: Seconds = Field(
        300.0, description="Time between two looks at Vault and AWS, in seconds; files are read when they change."
    )
    vault_url: str | None = Field(None, pattern=r"^https?://[^\s]+$", description="HashiCorp Vault.")
    vault_auth: Literal["token", "approle", "kubernetes"] = Field("token", description="How to log in to Vault.")
    vault_auth_mount: str | None = Field(None, description="Where that way is mounted; by default its name.")
    vault_mount: str = Field("secret", min_length=1, description="Mount of the key-value store, version 2.")
    vault_namespace: str | None = Field(None, description="Namespace (Vault Enterprise).")
    vault_ca: Path | None = Field(None, description="Certificates that Vault's own is trusted by; else the system's.")
    vault_token: SecretStr | None = Field(None, description="With token; may say env:NAME or file:/PATH.")
    vault_role_id: SecretStr | None = Field(None, description="With approle; may say env:NAME or file:/PATH.")
    vault_secret_id: SecretStr | None = Field(None, description="With approle; may say env:NAME or file:/PATH.")
    vault_role: str | None = Field(None, description="With kubernetes: the role to log in for.")
    vault_jwt_file: Path = Field(
        Path("/var/run/secrets/kubernetes.io/serviceaccount/token"),
        description="With kubernetes: the service account's token.",
    )
    aws_region: str | None = Field(None, description="Region of AWS Secrets Manager (extra `aws`); else AWS's own way.")
    aws_endpoint: str | None = Field(None, description="Another endpoint, for instance one inside a VPC.")


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


class TrafficSettings(Section):
    """How requests are watched while their traffic is divided among releases."""

    silent_seconds: Seconds = Field(
        30.0,
        description="In a rollout, a stream without a token for so long counts as failed, in seconds; an answer in "
        "one piece counts after `engine.first_token_timeout`, if that is longer.",
    )
    shadow_concurrency: int = Field(4, ge=1, le=256, description="Requests mirrored to a release at the same time.")
    feedback_entries: int = Field(
        50_000, ge=100, le=1_000_000, description="Latest answers that callers can vote on, in this process."
    )


class LogLevel(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogSettings(Section):
    """What is logged, and how."""

    level: LogLevel = Field(LogLevel.INFO, description="Least important level that is logged.")
    prompts: bool = Field(False, description="Also log prompts. They may hold personal data.")


class Settings(BaseSettings):
    """All of them. Build with `load()`."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="RAMSEY_",
        env_nested_delimiter="__",
        env_ignore_empty=True,
    )

    profile: Profile = Field(Profile.DEVELOPMENT, description="development, staging or production.")
    data_dir: Path = Field(Path(".ramsey"), description="Where Ramsey keeps its state.")
    server: ServerSettings = Field(default_factory=ServerSettings)
    model: ModelSettings = Field(default_factory=ModelSettings)
    engine: EngineSettings = Field(default_factory=EngineSettings)
    pool: PoolSettings = Field(default_factory=PoolSettings)
    access: AccessSettings = Field(default_factory=AccessSettings)
    cache: CacheSettings = Field(default_factory=CacheSettings)
    limits: LimitsSettings = Field(default_factory=LimitsSettings)
    releases: ReleasesSettings = Field(default_factory=ReleasesSettings)
    traffic: TrafficSettings = Field(default_factory=TrafficSettings)
    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    secrets: SecretsSettings = Field(default_factory=SecretsSettings)
    log: LogSettings = Field(default_factory=LogSettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags over RAMSEY_* variables over the file over Ollama's own variables."""
        file = TomlConfigSettingsSource(settings_cls)
        ollama = InitSettingsSource(settings_cls, _from_ollama_variables())
        return init_settings, env_settings, file, ollama

    @model_validator(mode="after")
    def _engine_is_not_the_gateway(self) -> Self:
        """OLLAMA_HOST that points at the gateway is right for clients, and a circle for the gateway itself."""
        engine = urlsplit(self.engine.host)
        here = engine.hostname in {"127.0.0.1", "localhost", "::1", self.server.host}
        if here and engine.port == self.server.port != 0 and not self.pool.nodes and not self.pool.dns:
            raise ValueError(
                f"engine.host ({self.engine.host}) is the gateway's own address: set RAMSEY_ENGINE__HOST, "
                "or unset OLLAMA_HOST where Ramsey starts"
            )
        return self

    @property
    def models_dir(self) -> Path:
        """The store of an engine that Ramsey starts."""
        return self.engine.models_dir or self.data_dir / "models"

    @property
    def releases_dir(self) -> Path:
        """Where the weights of releases are kept."""
        return self.releases.folder or self.data_dir / "releases"


def config_path(path: Path | None = None) -> Path | None:
    """The file that `load` reads: the one given, else $RAMSEY_CONFIG, else ramsey.toml where it exists."""
    if path is None and (named := os.environ.get("RAMSEY_CONFIG")):
        path = Path(named)
    if path is not None:
        if not path.is_file():
            raise ConfigurationError(f"There is no settings file {path}.")
        return path
    return Path(CONFIG_FILE) if Path(CONFIG_FILE).is_file() else None


def load(path: Path | None = None, **overrides: Any) -> Settings:
    """Read the settings from `config_path(path)` and the environment.

    `overrides` are sections as dictionaries, over both (command-line flags, tests).
    Raises ConfigurationError that names every key that is wrong.
    """
    file = config_path(path)
    _refuse_unknown_variables()

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    try:
        return FromFile(**overrides)
    except ValidationError as error:
        raise ConfigurationError(_explain(error, file), hint="`ramsey config docs` lists every setting.") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{file} is not TOML: {error}.") from None
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror or error}.") from None
    except SettingsError as error:
        raise ConfigurationError(f"{error} (lists and tables are given as JSON).") from None


def environment() -> dict[str, str]:
    """A copy of the environment, to hand to child processes and to look programs up."""
    return dict(os.environ)


def api_key() -> SecretStr | None:
    """The key with which the command line calls a gateway."""
    key = os.environ.get("RAMSEY_API_KEY", "").strip()
    return SecretStr(key) if key else None


def _from_ollama_variables() -> dict[str, Any]:
    """Ollama's own variables, so that a machine set up for Ollama needs nothing more."""
    engine: dict[str, Any] = {}
    if host := os.environ.get("OLLAMA_HOST", "").strip():
        engine["host"] = ollama_host_url(host)
    if models := os.environ.get("OLLAMA_MODELS", "").strip():
        engine["models_dir"] = models
    return {"engine": engine} if engine else {}


def ollama_host_url(host: str) -> str:
    """What OLLAMA_HOST means to a client: a URL, with Ollama's default ports.

    `0.0.0.0` is where a server listens; a client reaches it at loopback.
    """
    scheme, _, rest = host.strip().rstrip("/").rpartition("://")
    default_port = {"http": 80, "https": 443}.get(scheme, 11434)
    name, colon, port = rest.rpartition(":")
    if not colon or port.endswith("]") or not port.isdigit():
        name, port = rest, str(default_port)
    if name in {"", "0.0.0.0", "[::]"}:  # noqa: S104 - read, not bound
        name = "127.0.0.1"
    return f"{scheme or 'http'}://{name}:{port}"


def _refuse_unknown_variables() -> None:
    """A misspelt RAMSEY_ variable would be ignored in silence otherwise."""
    known = {f"RAMSEY_{name}" for name in describe_variables()}
    for variable in sorted(os.environ):
        if not variable.startswith("RAMSEY_") or variable in known | OTHER_VARIABLES.keys():
            continue
        if _SERVICE_LINK.search(f"{variable}={os.environ[variable]}"):
            continue
        near = difflib.get_close_matches(variable, known, n=1, cutoff=0.6)
        raise ConfigurationError(
            f"The environment sets {variable}, which is no setting.",
            hint=f"Did you mean {near[0]}?" if near else "`ramsey config docs` lists every setting.",
        )


def describe_variables(section: type[BaseModel] | None = None) -> list[str]:
    """Every variable that sets something, without its prefix; a section alone takes JSON."""
    names: list[str] = []
    for name, field in (section or Settings).model_fields.items():
        names.append(name.upper())
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            names += [f"{name.upper()}__{inner}" for inner in describe_variables(field.annotation)]
    return names


def _explain(error: ValidationError, file: Path | None) -> str:
    """One line per wrong key, in the spelling of the file; never with the value, which may be a secret."""
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        reason = problem["msg"].removeprefix("Value error, ")
        reason = "there is no such setting" if problem["type"] == "extra_forbidden" else reason
        lines.append(f"{key}: {reason}" if key else reason)
    return f"The settings ({file or 'no file'}, environment) are wrong: " + "; ".join(lines) + "."

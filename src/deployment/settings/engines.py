"""The engine, and the nodes that serve together."""

from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator

from deployment.settings.addresses import Url
from deployment.settings.section import Seconds, Section


class EngineKind(StrEnum):
    """Which engine answers."""

    AUTO = "auto"
    OLLAMA = "ollama"
    EMBEDDED = "embedded"


class EngineSettings(Section):
    """The engine, and how long it may take."""

    kind: EngineKind = Field(
        EngineKind.AUTO,
        description="auto: an Ollama that answers at the host, else an `ollama` on the PATH, else embedded.",
    )
    host: Url = Field(
        "http://127.0.0.1:11434",
        repr=False,
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
    url: Url = Field(
        repr=False, pattern=r"^https?://[^/\s]+$", description="Where it answers, for instance http://10.0.0.5:11434."
    )
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

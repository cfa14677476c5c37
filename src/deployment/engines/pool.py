"""The pool: its parts put together, its members, and the calls that others make on it."""

import asyncio
import contextlib
import random
from collections.abc import Collection, Mapping
from types import MappingProxyType, TracebackType
from typing import Any, Self

import structlog
from prometheus_client import CollectorRegistry

from deployment.clock import Clock
from deployment.engines.admission import Admission
from deployment.engines.answer import Answer
from deployment.engines.attempt import Tools
from deployment.engines.breaker import Rules
from deployment.engines.discovery import Discovery
from deployment.engines.failover import Failover
from deployment.engines.health import Health
from deployment.engines.hedge import Hedger
from deployment.engines.leases import Leases
from deployment.engines.membership import Membership, MembershipFile
from deployment.engines.metrics import PoolMetrics
from deployment.engines.model import Call, NodeSpec, NodeView
from deployment.engines.node import Node
from deployment.engines.outcomes import Outcomes
from deployment.engines.policies import policy_of
from deployment.engines.warm import Warmer
from deployment.errors import ConfigurationError, EngineError, InvalidRequest, NotFound
from deployment.ollama_client import OllamaClient, Timeouts
from deployment.settings import Settings, shown_url

_DRAIN_POLL_S = 0.02
_PS_TIMEOUT_S = 2.0

_log = structlog.get_logger("pool")


class EnginePool:
    """Nodes that behave as one. Construction does no I/O; enter it, or `start` and `close` it."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        registry: CollectorRegistry,
        *,
        rng: random.Random | None = None,
    ) -> None:
        pool, engine = settings.pool, settings.engine
        self._settings = settings
        self._clock = clock
        self._timeouts = Timeouts(
            engine.connect_timeout, engine.first_token_timeout, engine.token_timeout, engine.request_timeout
        )
        self._metrics = PoolMetrics(registry)
        rules = Rules(pool.breaker_failures, pool.breaker_ratio, pool.breaker_backoff, pool.breaker_max_backoff)
        keep_alive = settings.model.keep_alive
        self._outcomes = Outcomes(rules, clock, self._metrics)
        self._admission = Admission(pool, policy_of(pool, rng or _any_random()), clock, self._metrics)
        self._warmer = Warmer(keep_alive, pool.load_timeout, clock, self._metrics, self._outcomes)
        self._expected: dict[str, str | None] = {}
        self._asked: dict[str, str | None] = {}
        self._health = Health(
            pool,
            keep_alive,
            clock,
            self._admission,
            self._outcomes,
            self._warmer,
            lambda: self._asked | self._expected,
        )
        self._tools = tools = Tools(clock, self._metrics, self._outcomes, self._warmer, self._timeouts)
        hedger = Hedger(pool.hedge_share, self._metrics)
        self._failover = Failover(pool, self._admission, tools, hedger, keep_alive)
        self._leases = Leases(pool, self._admission)
        self._discovery = Discovery(pool, engine.num_parallel, self._configure)
        self._file = MembershipFile(settings.data_dir / "nodes.json")
        self._membership = Membership()
        self._configured: list[NodeSpec] = []
        self._found: list[NodeSpec] = []
        self._changing = asyncio.Lock()
        self._outcomes.on_change = lambda _node: self._admission.changed()
        self._outcomes.on_failure = self._health.look_again
        self._warmer.on_loaded = self._admission.changed
        self._metrics.watch(self.view, self._admission.depths)

    # --- life ----------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Read the members, and begin to check them. Raises ConfigurationError for a broken members' file."""
        self._tools.loop = asyncio.get_running_loop()
        self._membership = await asyncio.to_thread(self._file.read)
        self._configured = configured_nodes(self._settings)
        self._leases.start()
        await self._apply()
        self._discovery.start()

    async def close(self) -> None:
        """End checks and loads, fail who waits, close the connections."""
        await self._discovery.close()
        await self._health.close()
        await self._warmer.close()
        self._admission.close()
        await self._leases.close()
        for node in self._admission.nodes.values():
            await node.client.close()

    # --- calls -----------------------------------------------------------------------------------------------

    async def open(self, call: Call) -> Answer:
        """Place an inference; returns when its first event has come. Close the answer in every case.

        Before that, a node that fails is replaced by another. Raises the last node's EngineError, RateLimited
        when the queue is full, EngineBusy when no slot came free in time (both with `retry_after_s`).
        """
        self._asked.setdefault(call.release, None)
        return await self._failover.open(call)

    async def request(self, path: str, release: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """One JSON answer (/api/embed, /api/embeddings, /api/show), of another node where one fails."""
        if path == "/api/show":
            return await self._failover.look(path, release, body)
        return await self._failover.request(path, release, body)

    # --- what is known -----------------------------------------------------------------------------------------

    def view(self) -> list[NodeView]:
        """Every node as it is now."""
        now = self._clock.monotonic()
        return [node.view(now) for node in self._admission.nodes.values()]

    def queue_wait(self, release: str) -> float:
        """How long the request that waits longest for a slot of a release has waited here, in seconds."""
        return self._admission.longest_wait(release)

    async def tags(self) -> list[dict[str, Any]]:
        """The models that healthy nodes hold, as in /api/tags; as old as the last check."""
        return _union(node.checked.tags for node in self._admission.nodes.values() if node.checked.ok)

    async def ps(self) -> list[dict[str, Any]]:
        """The models that healthy nodes have loaded now, as in /api/ps; a node that does not say holds none."""
        nodes = [node for node in self._admission.nodes.values() if node.checked.ok]
        asked = (node.client.request("GET", "/api/ps", timeout_s=_PS_TIMEOUT_S) for node in nodes)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        return _union(answer.get("models", []) for answer in answers if isinstance(answer, dict))

    @property
    def slots_shared(self) -> bool | None:
        """Whether Redis divides the slots among the gateways now; None where none is set."""
        return self._leases.shared

    def labels(self, name: str | None) -> Mapping[str, str]:
        """A node's labels; none where there is no such node."""
        node = self._admission.nodes.get(name or "")
        return node.spec.labels if node is not None else {}

    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return self._admission.waiting()

    async def check(self) -> None:
        """Check every node now, those that are out too, for instance after a release was deployed."""
        nodes = list(self._admission.nodes.values())
        await asyncio.gather(*(self._health.check(node, at_once=True) for node in nodes))

    def expect(
        self, releases: Mapping[str, str | None], places: Mapping[str, Mapping[str, str]] = MappingProxyType({})
    ) -> None:
        """The releases that are to be served, with their digests where known.

        They are kept loaded on every node that holds them; a node that holds another digest does not serve them.
        `places` are labels of the nodes that a release belongs to, where that is not every node: elsewhere it is
        neither loaded nor served.
        """
        self._admission.places = {name.lower(): labels for name, labels in places.items()}
        self._expected = {name.lower(): digest for name, digest in releases.items()}
        self._asked = {name: None for name in self._asked if name in self._expected}
        for node in self._admission.nodes.values():
            self._health.look_again(node)

    async def load(self, release: str, names: Collection[str]) -> dict[str, EngineError | None]:
        """Load a release on the nodes of these names; what failed on each, None where it is loaded."""
        nodes = [node for name, node in self._admission.nodes.items() if name in names]
        loads = (asyncio.shield(self._warmer.ensure(node, release)) for node in nodes)
        return dict(zip((node.name for node in nodes), await asyncio.gather(*loads), strict=True))

    async def unload(self, release: str) -> None:
        """Unload a release on every node that has it. Raises EngineTimeout where that hangs."""
        self._expected.pop(release, None)
        self._asked.pop(release, None)
        nodes = [node for node in self._admission.nodes.values() if node.holds(release)]
        await asyncio.gather(*(self._warmer.unload(node, release) for node in nodes))

    # --- members -----------------------------------------------------------------------------------------------

    def show(self, name: str) -> NodeView:
        """One node. Raises NotFound."""
        return self._node(name).view(self._clock.monotonic())

    async def add(self, spec: NodeSpec) -> NodeView:
        """Take a node in, also after a restart.

        Raises InvalidRequest for an address or name that is taken, ConfigurationError for an address that is none.
        """
        await OllamaClient(spec.url).close()  # refuses what is no address, before it is written down
        for node in self._admission.nodes.values():
            if node.name == spec.name or node.spec.url == spec.url:
                raise InvalidRequest(
                    f"{node.name} at {shown_url(node.spec.url)} is in the pool already.",
                    hint=f"`ramsey nodes remove {node.name}` first.",
                )
        await self._change(self._membership.with_added(spec))
        return self.show(spec.name)

    async def drain(self, name: str, *, draining: bool = True) -> NodeView:
        """Give a node no new work; its streams go on to their end.

        `draining=False` takes that back, after a look at the node: it may have been restarted meanwhile.
        """
        node = self._node(name)
        if not draining:
            await self._health.check(node, at_once=True)
        await self._change(self._membership.with_draining(name, draining))
        return self.show(name)

    async def drained(self, name: str, timeout_s: float) -> bool:
        """Wait until nothing is in flight on a node; False when the time is over first."""
        node = self._node(name)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while node.in_flight:  # noqa: ASYNC110 - an event would cost every request something
                    await asyncio.sleep(_DRAIN_POLL_S)
        return not node.in_flight

    async def remove(self, name: str) -> None:
        """Take a node out, also after a restart. Its streams are cut: drain it first."""
        self._node(name)
        await self._change(self._membership.without(name))

    def _node(self, name: str) -> Node:
        if (node := self._admission.nodes.get(name)) is None:
            raise NotFound(f"There is no node {name}.", hint="`ramsey nodes list` lists them.")
        return node

    async def _change(self, membership: Membership) -> None:
        async with self._changing:
            await asyncio.to_thread(self._file.write, membership)
            self._membership = membership
            await self._apply()

    async def _configure(self, found: list[NodeSpec]) -> None:
        async with self._changing:
            self._found = found
            await self._apply()

    async def _apply(self) -> None:
        """Make the nodes what settings, DNS and operators say."""
        wanted = self._membership.members([*self._configured, *self._found])
        nodes = self._admission.nodes
        gone = [node for node in nodes.values() if wanted.get(node.name) != node.spec]
        for node in gone:
            del nodes[node.name]
        for node in gone:
            await self._retire(node)
        level = min((node.picked for node in nodes.values()), default=0.0)
        for spec in wanted.values():
            if spec.name not in nodes:
                try:
                    client = OllamaClient(spec.url, self._settings.model.name, timeouts=self._timeouts)
                except ConfigurationError as error:  # one wrong line must not keep the others from serving
                    _log.error("node left out", node=spec.name, reason=error.message)
                    continue
                node = nodes[spec.name] = Node(spec, client, self._settings.pool.affinity_blocks)
                node.picked = level  # a newcomer owes nothing
                self._leases.adopt(node)
                self._health.watch(node)
        for node in nodes.values():
            node.draining = node.name in self._membership.draining
        self._admission.changed()

    async def _retire(self, node: Node) -> None:
        self._leases.forget(node)
        await self._health.unwatch(node)
        await self._warmer.forget(node)
        await node.client.close()


def configured_nodes(settings: Settings) -> list[NodeSpec]:
    """The nodes that the settings name: those of the pool, else (without DNS names) the one engine."""
    engine = settings.engine
    if settings.pool.nodes:
        return [
            NodeSpec(node.name, node.url, node.slots or engine.num_parallel, node.weight, dict(node.labels))
            for node in settings.pool.nodes
        ]
    if settings.pool.dns:
        return []
    return [NodeSpec("engine", engine.host, engine.num_parallel)]


def _any_random() -> random.Random:
    return random.Random()  # noqa: S311 - for placement, not for secrets


def _union(lists: Any) -> list[dict[str, Any]]:
    """Rows of several nodes, one for each name."""
    rows: dict[str, dict[str, Any]] = {}
    for each in lists:
        for row in each:
            rows.setdefault(str(row.get("name")), row)
    return list(rows.values())

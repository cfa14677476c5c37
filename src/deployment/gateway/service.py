"""What every inference route does before and around its dialect."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from deployment.access import Authenticator, Limits, Permission, Principal
from deployment.clock import Clock
from deployment.engines import EnginePool
from deployment.errors import Draining, EngineUnavailable
from deployment.gateway.cache import Answers
from deployment.gateway.direct import Endpoint
from deployment.gateway.encoder import Encoder, Reply
from deployment.gateway.exchange import Exchanges, Generation, Unary, Wire
from deployment.gateway.inference import Bounds, Inference, Served, most_tokens, refuse_unwritable, resolve, to_call
from deployment.gateway.neutral import neutral_body, pattern_of
from deployment.releases import Traffic
from deployment.settings import Settings
from deployment.telemetry import Metrics, RequestRecord

_BYPASS = re.compile(r"\bno-(cache|store)\b", re.IGNORECASE)


@dataclass(slots=True)
class Drain:
    """Whether this process is about to stop. First `noticed` (readiness says 503), then `refusing` new work."""

    noticed: bool = False
    refusing: bool = False


@dataclass(slots=True)
class Gateway:
    """The gateway's use cases; built once by the composition root."""

    settings: Settings
    pool: EnginePool
    answers: Answers
    authenticator: Authenticator
    limits: Limits
    traffic: Traffic
    metrics: Metrics
    clock: Clock
    drain: Drain = field(default_factory=Drain)
    direct: dict[str, Endpoint] = field(default_factory=dict)  # POST paths that pass the router by
    exchanges: Exchanges = field(init=False)
    _wire: Wire = field(init=False)
    _patterns: dict[str, tuple[tuple[str, ...] | None, re.Pattern[str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.exchanges = Exchanges(self.settings.server.slow_client_seconds)
        self._wire = Wire(self.answers, self.exchanges, self.limits, self.clock.monotonic)

    def caller(self, request: Request, permission: Permission) -> Principal:
        """Who calls, if they may do this. Raises Unauthenticated, Forbidden; Draining once no new work is taken."""
        if self.drain.refusing:
            raise Draining("This server is stopping.", hint="Ask again.", retry_after_s=1)
        principal = self.authenticator.authenticate(request.scope)
        record: RequestRecord = request.scope["state"]["record"]
        record.key, record.tenant = principal.key_hash, principal.tenant
        principal.require(permission)
        return principal

    async def serve(
        self,
        request: Request,
        principal: Principal,
        inference: Inference,
        encoder: Callable[[Reply], Encoder],
        dialect: str,
    ) -> Generation:
        """One inference, as a response that runs it. Raises what is wrong with the request before anything runs."""
        served = await self.resolve(inference.model, principal)
        session = request.headers.get("x-session-id")
        bounds = Bounds.of(self.settings.model, self.limits.sizes(principal, served.logical))
        markers = self._markers(served.release)
        call, ignored = to_call(inference, served.release, bounds, markers, tenant=principal.tenant, session=session)
        record: RequestRecord = request.scope["state"]["record"]
        record.stream = inference.stream
        if self.settings.log.prompts:
            record.prompt = inference.prompt()
        headers = self._headers(record, served)
        if ignored:
            headers["x-ramsey-ignored"] = ", ".join(ignored)
        return Generation(
            self._wire,
            call,
            encoder(self.reply(record, served)),
            record,
            dialect,
            headers,
            principal,
            default_output=bounds.max_tokens,
            bypass_cache=_BYPASS.search(request.headers.get("cache-control", "")) is not None,
        )

    async def ask(
        self,
        request: Request,
        principal: Principal,
        model: str | None,
        path: str,
        body: dict[str, Any],
        encode: Callable[[dict[str, Any], Reply], bytes],
        dialect: str,
    ) -> Unary:
        """One call with one JSON answer (embeddings, show)."""
        served = await self.resolve(model, principal)
        body = neutral_body(body, self._markers(served.release))
        refuse_unwritable(body)
        record: RequestRecord = request.scope["state"]["record"]
        reply = self.reply(record, served)

        async def run() -> dict[str, Any]:
            return await self.pool.request(path, served.release, body)

        headers = self._headers(record, served)
        return Unary(
            self._wire,
            run,
            lambda result: encode(result, reply),
            record,
            dialect,
            headers,
            principal,
            most_tokens(body),
        )

    async def resolve(self, asked: str | None, principal: Principal) -> Served:
        """The release behind a name. Raises ModelNotFound, or Forbidden where the caller may not use the model."""
        table, default = self.traffic.table, self.settings.model.name
        if (release := table.get(asked or default)) is not None:
            served = Served(asked or default, release)
        elif not table:
            raise EngineUnavailable("No release has traffic yet.", hint="/health says why.", retry_after_s=1)
        else:
            present = frozenset(entry["name"] for entry in await self.pool.tags())
            served = resolve(asked, table, present, default)
        principal.require_model(served.logical)
        return served

    def _markers(self, release: str) -> re.Pattern[str]:
        tokens = self.traffic.control_tokens(release)
        known = self._patterns.get(release)
        if known is None or known[0] is not tokens:
            known = self._patterns[release] = (tokens, pattern_of(tokens))
        return known[1]

    def table(self, principal: Principal) -> dict[str, str]:
        """The models that the caller may use, and the releases that answer for them."""
        allowed = principal.models
        return {model: release for model, release in self.traffic.table.items() if not allowed or model in allowed}

    async def models(self, principal: Principal) -> list[dict[str, Any]]:
        """What the caller may ask for: each served model under its own name, and its releases by their tags.

        Entries in the form of `/api/tags`.
        """
        table = self.table(principal)
        there = {entry["name"]: entry for entry in await self.pool.tags()}
        own = [
            there[release] | {"name": f"{model}:latest", "model": f"{model}:latest"}
            for model, release in table.items()
            if release in there
        ]
        return own + [entry for name, entry in sorted(there.items()) if name.partition(":")[0] in table]

    def reply(self, record: RequestRecord, served: Served) -> Reply:
        """What the answer will carry."""
        return Reply(record.request_id, served.model, served.release, int(self.clock.now().timestamp()))

    @staticmethod
    def _headers(record: RequestRecord, served: Served) -> dict[str, str]:
        record.model, record.release = served.logical, served.release
        return {"x-ramsey-release": served.release}

"""What every inference route does before and around its dialect."""

import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from deployment.access import Authenticator, Limits, Permission, Principal
from deployment.clock import Clock
from deployment.engines import Call, EnginePool
from deployment.errors import Draining, EngineUnavailable
from deployment.gateway.cache import Answers, is_deterministic
from deployment.gateway.encoder import Encoder, Reply
from deployment.gateway.exchange import Exchanges, Wire
from deployment.gateway.generation import Generation, Unary
from deployment.gateway.inference import (
    Bounds,
    Inference,
    Served,
    may_ask,
    most_read,
    most_tokens,
    not_served,
    refuse_unwritable,
    to_call,
    understand,
)
from deployment.gateway.kept import Kept
from deployment.gateway.neutral import neutral_body, pattern_of
from deployment.gateway.observed import Observed
from deployment.privacy import Keeper, redacted_all
from deployment.releases import PIN_HEADER, Caller, Choice, Split, Traffic, TrafficRoom, Traits
from deployment.settings import Settings
from deployment.telemetry import Metrics, RequestRecord

_BYPASS = re.compile(rb"\bno-(cache|store)\b", re.IGNORECASE)
_PIN = PIN_HEADER.encode()
_UNKNOWN = Traits()


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
    room: TrafficRoom
    keeper: Keeper
    metrics: Metrics
    clock: Clock
    drain: Drain = field(default_factory=Drain)
    exchanges: Exchanges = field(init=False)
    traffic: Traffic = field(init=False)
    _wire: Wire = field(init=False)
    _patterns: dict[str, tuple[tuple[str, ...] | None, re.Pattern[str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.exchanges = Exchanges(self.settings.server.slow_client_seconds, self.clock.monotonic)
        self._wire = Wire(self.answers, self.exchanges, self.limits, self.clock.monotonic, self.room.recent)
        self.traffic = self.room.traffic

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
        session, pin, subject, bypass = _own_headers(request.scope["headers"])
        served = await self.resolve(inference.model, principal, session, pin)
        traits = self.traffic.traits(served.release) or _UNKNOWN
        bounds = Bounds.of(self.settings.model, self.limits.sizes(principal, served.logical), traits)
        markers = self._markers(served.release)
        call, ignored = to_call(inference, served.release, bounds, markers, tenant=principal.tenant, session=session)
        record: RequestRecord = request.scope["state"]["record"]
        record.stream = inference.stream
        if self.settings.log.prompts:
            prompt = inference.prompt()
            record.prompt = redacted_all(prompt) if self.settings.privacy.redact_logs else prompt
        subject = subject or inference.subject or principal.id
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
            most=most_tokens(call.body, bounds, wished=inference.wishes_length),
            answer_field=inference.answer_field,
            bypass_cache=bypass,
            rollout=None if served.choice.pinned else served.split.rollout,
            subject=subject,
            observed=self._observed(inference, call, served),
            kept=self._kept(inference, principal, subject),
        )

    def _kept(self, inference: Inference, principal: Principal, subject: str) -> Kept | None:
        """Where the tenant asked to keep its conversations."""
        if not self.keeper.wants(principal.tenant):
            return None
        return Kept(self.keeper, inference, principal.tenant, subject)

    def _observed(self, inference: Inference, call: Call, served: Served) -> Observed | None:
        """Who looks at this request: the judge, or a shadow; mostly nobody."""
        split, choice, room = served.split, served.choice, self.room
        if split.rollout is None and split.shadow is None:
            return None
        watch = room.recorder.begin(split, choice, length=inference.prompt_chars(), stream=inference.stream)
        mirror = None
        if room.shadows.wanted(split, choice, random.random()):  # noqa: S311 - no secret
            mirror = (room.shadows, split, call, is_deterministic(call))
        if watch is None and mirror is None:
            return None
        return Observed(room.recorder, watch, self.pool.labels, mirror)

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
        _, pin, _, _ = _own_headers(request.scope["headers"])
        served = await self.resolve(model, principal, None, pin, main=True)
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
            most_read(body),
        )

    async def resolve(
        self, asked: str | None, principal: Principal, session: str | None, pin: str | None, *, main: bool = False
    ) -> Served:
        """The release behind a name. Raises ModelNotFound, or Forbidden where the caller may not use the model.

        `main`: no draw, but the release with most of the traffic. Embeddings of two releases cannot be compared.
        """
        routes, default = self.traffic.routes, self.settings.model.name
        name = asked or default
        release = None
        if (route := routes.get(name)) is not None:
            model = name
        elif not routes:
            raise EngineUnavailable("No release has traffic yet.", hint="/health says why.", retry_after_s=1)
        else:
            understood = understand(asked, routes, default)
            name, model, release = understood.name, understood.model, understood.release
            route = routes[model]
        if principal.models:
            principal.require_model(model)
        if release is not None:
            await self._require_release(name, release, route.split, principal)
            choice = Choice(release, None, True)
        elif pin is None and route.only is not None:
            choice = route.only
        else:
            caller = Caller(principal.id, principal.tenant, session, pin)
            fixed = (route.pinned(caller) or Choice(route.split.main)) if main else None
            choice = fixed or route.choose(caller, random.random())  # noqa: S311 - no secret
        return Served(name, model, choice, route.split)

    async def _require_release(self, name: str, release: str, split: Split, principal: Principal) -> None:
        every = Permission.RELEASES_READ in principal.permissions
        present = [entry["name"] for entry in await self.pool.tags()] if every else []
        if not may_ask(release, split, present, every=every):
            raise not_served(name, self.traffic.table)

    def _markers(self, release: str) -> re.Pattern[str]:
        tokens = (self.traffic.traits(release) or _UNKNOWN).control_tokens
        known = self._patterns.get(release)
        if known is None or known[0] is not tokens:
            known = self._patterns[release] = (tokens, pattern_of(tokens))
        return known[1]

    def table(self, principal: Principal) -> dict[str, str]:
        """The models that the caller may use, and the releases that answer for them."""
        allowed = principal.models
        return {model: release for model, release in self.traffic.table.items() if not allowed or model in allowed}

    def weights(self, model: str) -> dict[str, float]:
        """The releases that have traffic of a model, with their parts of it."""
        split = self.traffic.split(model)
        return {share.release: share.weight for share in split.shares if share.weight > 0} if split else {}

    async def models(self, principal: Principal) -> list[dict[str, Any]]:
        """What the caller may ask for: each served model under its own name, and its releases by their tags.

        Entries in the form of `/api/tags`.
        """
        table = self.table(principal)
        every = Permission.RELEASES_READ in principal.permissions
        there = {entry["name"]: entry for entry in await self.pool.tags()}
        own = [
            there[release] | {"name": f"{model}:latest", "model": f"{model}:latest"}
            for model, release in table.items()
            if release in there
        ]
        splits = {model: self.traffic.split(model) for model in table}
        return own + [
            entry
            for name, entry in sorted(there.items())
            if (split := splits.get(name.partition(":")[0])) is not None and may_ask(name, split, there, every=every)
        ]

    def reply(self, record: RequestRecord, served: Served) -> Reply:
        """What the answer will carry."""
        return Reply(record.request_id, served.model, served.release, int(self.clock.now().timestamp()))

    @staticmethod
    def _headers(record: RequestRecord, served: Served) -> dict[str, str]:
        record.model, record.release = served.logical, served.release
        return {"x-ramsey-release": served.release}


def _own_headers(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str | None, str | None, str | None, bool]:
    """What an inference looks at, in one pass: session, pin, subject, and whether the cache is passed by."""
    session = pin = subject = None
    bypass = False
    for name, value in headers:
        if name == b"x-session-id":
            session = value.decode("latin-1")
        elif name == _PIN:
            pin = value.decode("latin-1")
        elif name == b"x-ramsey-subject":
            subject = _text(value)
        elif name == b"cache-control":
            bypass = bypass or _BYPASS.search(value) is not None
    return session, pin, subject, bypass


def _text(value: bytes) -> str:
    """A header's text: UTF-8, as nearly everybody sends what is not ASCII, else Latin-1, as the protocol has it."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")

"""The fake node: an ASGI app that answers as Ollama does, and fails as it is told."""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import orjson
from tests.support.fake_node import server, strikes
from tests.support.fake_node.exchange import Exchange, Gone, Receive, Refused, Scope, Send
from tests.support.fake_node.faults import Fault, Faults
from tests.support.fake_node.inference import Inference
from tests.support.fake_node.models import FOREVER_S, FakeModel, Scheduler, full_name
from tests.support.fake_node.store import Store

Handler = Callable[[Exchange, Any], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Seen:
    """A request's head, as it came."""

    method: str
    path: str
    headers: tuple[tuple[bytes, bytes], ...]


class FakeNode:
    """A node. `async with FakeNode() as node:` serves on a free port of loopback at `node.url`.

    `open_delay_s`: the port accepts this long before anything answers. `load_s`: a cold load.
    `token_delay_s`: before each token. `tokens`: length of an answer (default: the model's own reply).
    """

    def __init__(
        self,
        models: Iterable[str | FakeModel] = ("ramsey-model:v1.1",),
        *,
        slots: int = 4,
        max_queue: int = 512,
        load_s: float = 0.0,
        token_delay_s: float = 0.0,
        tokens: int | None = None,
        open_delay_s: float = 0.0,
        keep_alive_s: float = 300.0,
        context_length: int = 4096,
        version: str = "0.33.0",
        seed: int = 0,
        may_die: bool = False,
    ) -> None:
        given = [FakeModel(full_name(model)) if isinstance(model, str) else model for model in models]
        self.version = version
        self.open_delay_s = open_delay_s
        self.faults = Faults(seed)
        self.scheduler = Scheduler(slots, max_queue, load_s, keep_alive_s, context_length)
        self.store = Store({model.name: model for model in given})
        self.store.version = version
        self.inference = Inference(self.store, self.scheduler, token_delay_s, tokens, may_die)
        self.requests: Counter[str] = Counter()
        self.bodies: deque[tuple[str, Any]] = deque(maxlen=1000)
        self.seen: deque[Seen] = deque(maxlen=10_000)
        self._server: server.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        store, inference = self.store, self.inference
        self._routes: dict[str, dict[str, Handler]] = {
            "/": {"GET": self._alive, "HEAD": self._alive},
            "/api/version": {"GET": self._version, "HEAD": self._version},
            "/api/status": {"GET": self._status},
            "/api/tags": {"GET": store.tags, "HEAD": store.tags},
            "/api/ps": {"GET": self._ps},
            "/api/show": {"POST": store.show},
            "/api/create": {"POST": store.create},
            "/api/copy": {"POST": store.copy},
            "/api/delete": {"DELETE": store.delete},
            "/api/generate": {"POST": inference.generate},
            "/api/chat": {"POST": inference.chat},
            "/api/embed": {"POST": inference.embed},
            "/api/embeddings": {"POST": inference.embeddings},
            "/_fake/faults": {"POST": self._set_faults, "DELETE": self._clear_faults},
            "/_fake/stats": {"GET": self._stats},
        }

    # --- the handle ------------------------------------------------------------------------------------------

    async def __aenter__(self) -> "FakeNode":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, port: int = 0) -> None:
        self._server = server.Server(self)
        await self._server.listen(port)
        if self.open_delay_s:
            loop = asyncio.get_running_loop()
            self._ready_at = loop.time() + self.open_delay_s

    async def stop(self) -> None:
        """As at SIGTERM: every connection is cut."""
        for task in self._tasks:
            task.cancel()
        if self._server is not None:
            await self._server.close()

    @property
    def url(self) -> str:
        assert self._server is not None, "the node is not started"
        return f"http://127.0.0.1:{self._server.port}"

    def fail(self, kind: str, **fault: Any) -> None:
        """One more fault: see `Fault` and `KINDS`."""
        self.faults.active.append(Fault(kind, **fault))

    def heal(self) -> None:
        """No faults any more."""
        self.faults.active.clear()

    async def refuse(self) -> None:
        """Close the port and cut every connection: connecting is refused until `accept`."""
        assert self._server is not None
        await self._server.close()

    async def accept(self) -> None:
        """Listen again, on the same port."""
        assert self._server is not None
        await self._server.listen(self._server.port)

    def connections(self) -> int:
        """Open connections."""
        return 0 if self._server is None else self._server.connections()

    def stats(self) -> dict[str, Any]:
        return {
            "requests": dict(self.requests),
            "loads": self.scheduler.loads,
            "load_aborts": self.scheduler.load_aborts,
            "pending": self.scheduler.pending,
            **self.inference.stats(),
        }

    # --- the app ---------------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        x = Exchange(scope, receive, send)
        try:
            await self._answer(x)
        except Refused as refused:
            if x.streaming:
                await x.end_stream(orjson.dumps({"error": refused.error}) + b"\n")
            else:
                await x.json({"error": refused.error}, refused.status)
        except Gone:
            pass
        finally:
            x.close()

    async def _answer(self, x: Exchange) -> None:
        control = x.path.startswith("/_fake/")
        if self.open_delay_s:
            await asyncio.sleep(self._ready_at - asyncio.get_running_loop().time())
        if not control:
            self.requests[x.path] += 1
            self.seen.append(Seen(x.method, x.path, tuple(x.scope["headers"])))
        if x.path.startswith("/api/blobs/") and x.method in {"HEAD", "POST"}:
            if x.method == "POST" and self.faults.active and (fault := self.faults.take(x.path)):
                await self._strike(x, fault, {})
            await self.store.blob(x)
            return
        methods = self._routes.get(x.path)
        handler = methods.get(x.method) if methods else None
        if handler is None:
            await (x.text("405 method not allowed", 405) if methods else x.text("404 page not found", 404))
            return
        raw = await x.body()
        if control:
            await handler(x, raw)
            return
        body = _decode(raw) if x.method in {"POST", "DELETE"} else {}
        self.bodies.append((x.path, dict(body)))
        if self.faults.active and (fault := self.faults.take(x.path, str(body.get("model", "")))):
            await self._strike(x, fault, body)
        await handler(x, body)

    async def _strike(self, x: Exchange, fault: Fault, body: dict[str, Any]) -> None:
        if fault.kind == "refuse":
            self._refuse_for(fault.seconds)
            x.reset()
        if fault.after is None:
            model = body.get("model", "")
            await strikes.before(x, fault, model, may_die=self.inference.may_die)
        if x.path in {"/api/generate", "/api/chat", "/api/create"}:
            body["_fault"] = fault

    async def _alive(self, x: Exchange, _: Any) -> None:
        await x.text("Ollama is running")

    async def _version(self, x: Exchange, _: Any) -> None:
        await x.json({"version": self.version})

    async def _status(self, x: Exchange, _: Any) -> None:
        await x.json({"cloud": {"disabled": True, "source": "env"}})

    async def _ps(self, x: Exchange, _: Any) -> None:
        rows = []
        for blob, runner in self.scheduler.loaded().items():
            model = self.store.models.get(runner.name) or FakeModel(runner.name, blob=blob)
            years = "2318" if runner.keep_alive >= FOREVER_S else "2026"
            more = {"size_vram": 0, "context_length": runner.options["num_ctx"]}
            rows.append({**model.row(), "expires_at": f"{years}-11-24T00:05:00Z", **more})
        await x.json({"models": rows})

    async def _set_faults(self, x: Exchange, raw: bytes) -> None:
        """`[{"kind": …}]` replaces all; one object is added."""
        given = orjson.loads(raw)
        try:
            if isinstance(given, list):
                self.faults.set(given)
            else:
                self.fail(**given)
        except (TypeError, ValueError) as error:
            raise Refused(400, str(error)) from None
        await x.json({"active": len(self.faults.active)})

    async def _clear_faults(self, x: Exchange, _: bytes) -> None:
        self.heal()
        await x.json({"active": 0})

    async def _stats(self, x: Exchange, _: bytes) -> None:
        await x.json(self.stats())

    def _refuse_for(self, seconds: float) -> None:
        async def cycle() -> None:
            await self.refuse()
            await asyncio.sleep(seconds)
            await self.accept()

        task = asyncio.ensure_future(cycle())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _decode(raw: bytes) -> dict[str, Any]:
    if not raw:
        raise Refused(400, "missing request body")
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise Refused(400, "invalid character looking for beginning of value") from None
    if not isinstance(body, dict):
        raise Refused(400, "json: cannot unmarshal array into Go value of type api.Request")
    return body

"""The models that a fake node holds, and the runners that serve them as Ollama's scheduler does."""

import asyncio
import hashlib
import re
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
from tests.support.fake_node.exchange import Exchange, Refused

LOAD_OPTIONS = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict")
BUSY = "server busy, please try again.  maximum pending requests exceeded"
MODIFIED = "2026-11-24T00:00:00.000000001Z"
FOREVER_S = 9.2e9


def sha256(text: str | bytes) -> str:
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def full_name(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


@dataclass(frozen=True)
class FakeModel:
    """A model: what it answers, what it can, and the blob that holds its weights (default: its own)."""

    name: str
    reply: str | None = None
    blob: str = ""
    capabilities: tuple[str, ...] = ("completion",)
    parameters: dict[str, Any] = field(default_factory=dict)
    system: str = ""
    template: str = "{{ .Prompt }}"
    dimensions: int = 8

    @property
    def weights(self) -> str:
        return self.blob or f"sha256:{sha256(f'weights of {self.name}')}"

    @property
    def digest(self) -> str:
        """As Ollama's: of the manifest, which does not hold the name."""
        parts = [self.weights, self.parameters, self.system, self.template, self.reply, self.capabilities]
        return sha256(orjson.dumps(parts))

    def words(self) -> list[str]:
        """The answer's tokens; characters of several bytes among them."""
        reply = self.reply or f"This is {self.name} – R(3,3) = 6, “naïve” ☂ 🙂 says 数学. "
        return re.findall(r"\s*\S+\s*?(?=\s|$)", reply) or [reply]

    def details(self) -> dict[str, Any]:
        return {
            "parent_model": "",
            "format": "gguf",
            "family": "llama",
            "families": ["llama"],
            "parameter_size": "1.8M",
            "quantization_level": "F16",
        }

    def row(self) -> dict[str, Any]:
        """As in /api/tags."""
        return {
            "name": self.name,
            "model": self.name,
            "modified_at": MODIFIED,
            "size": 3_683_680,
            "digest": self.digest,
            "details": self.details(),
            "capabilities": list(self.capabilities),
        }

    def renamed(self, name: str) -> "FakeModel":
        return replace(self, name=name, blob=self.weights, reply=self.reply)


@dataclass
class Runner:
    """A loaded blob with its slots. `name` is the one that loaded it first."""

    name: str
    options: dict[str, Any]
    slots: asyncio.Semaphore
    keep_alive: float
    in_use: int = 0
    idle_since: float = 0.0

    def over(self, now: float) -> bool:
        return self.in_use == 0 and now - self.idle_since >= self.keep_alive


class Scheduler:
    """One load at a time; a loaded model bypasses the queue and waits, without limit, for a slot."""

    def __init__(self, slots: int, max_queue: int, load_s: float, keep_alive: float, context_length: int) -> None:
        self.slots = slots
        self.max_queue = max_queue
        self.load_s = load_s
        self.keep_alive = keep_alive
        self.context_length = context_length
        self.runners: dict[str, Runner] = {}
        self.loads = 0
        self.load_aborts = 0
        self.pending = 0
        self._loading = asyncio.Lock()
        self._idle = asyncio.Condition()

    async def acquire(
        self, x: Exchange, model: FakeModel, options: dict[str, Any], shift: bool, keep_alive: float | None
    ) -> tuple[Runner, float]:
        """A runner with a slot taken, and the seconds that its load took."""
        wanted = {"num_ctx": self.context_length, **model.parameters, **options}
        wanted = {key: wanted[key] for key in LOAD_OPTIONS if key in wanted}
        wanted["shift"] = shift
        loop = asyncio.get_running_loop()
        began = loop.time()
        runner = self._fit(model, wanted)
        if runner is None:
            if self.pending >= self.max_queue:
                raise Refused(503, BUSY)
            self.pending += 1
            try:
                runner = await x.race(self._load(model, wanted))
            finally:
                self.pending -= 1
        load_s = loop.time() - began
        runner.in_use += 1
        if keep_alive is not None:
            runner.keep_alive = keep_alive
        try:
            if runner.slots.locked():
                await x.race(runner.slots.acquire())
            else:
                await runner.slots.acquire()
        except BaseException:
            await self._less(runner)
            raise
        return runner, load_s

    async def release(self, runner: Runner) -> None:
        runner.slots.release()
        await self._less(runner)

    async def unload(self, model: FakeModel) -> None:
        if runner := self.runners.get(model.weights):
            runner.keep_alive = 0.0

    def loaded(self) -> dict[str, Runner]:
        now = asyncio.get_running_loop().time()
        for blob in [blob for blob, runner in self.runners.items() if runner.over(now)]:
            del self.runners[blob]
        return self.runners

    async def _less(self, runner: Runner) -> None:
        runner.in_use -= 1
        if runner.in_use == 0:
            runner.idle_since = asyncio.get_running_loop().time()
            if self.pending:
                async with self._idle:
                    self._idle.notify_all()

    def _fit(self, model: FakeModel, wanted: dict[str, Any]) -> Runner | None:
        runner = self.loaded().get(model.weights)
        if runner is not None and all(runner.options.get(key) == value for key, value in wanted.items()):
            return runner
        return None

    async def _load(self, model: FakeModel, wanted: dict[str, Any]) -> Runner:
        async with self._loading:
            if runner := self._fit(model, wanted):
                return runner
            if old := self.runners.get(model.weights):
                async with self._idle:
                    await self._idle.wait_for(lambda: old.in_use == 0)
                self.runners.pop(model.weights, None)
            try:
                await asyncio.sleep(self.load_s)
            except asyncio.CancelledError:
                self.load_aborts += 1
                raise
            self.loads += 1
            slots = 1 if "embedding" in model.capabilities else self.slots
            now = asyncio.get_running_loop().time()
            runner = Runner(model.name, wanted, asyncio.Semaphore(slots), self.keep_alive, idle_since=now)
            self.runners[model.weights] = runner
            return runner

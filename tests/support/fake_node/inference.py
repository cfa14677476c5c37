"""A fake node's answers: generate, chat and embeddings, and the faults that strike them."""

from collections import Counter
from typing import Any

import orjson
from tests.support.fake_node import replies, strikes
from tests.support.fake_node.checks import check
from tests.support.fake_node.exchange import Exchange, Gone, Refused
from tests.support.fake_node.faults import Fault
from tests.support.fake_node.models import FakeModel, Scheduler
from tests.support.fake_node.store import Store

WHOLE = {"slow", "split", "join", "late_end"}
"""Faults whose answers are right all the same."""


class Inference:
    """Answers of the loaded models, token by token."""

    def __init__(
        self,
        store: Store,
        scheduler: Scheduler,
        token_delay_s: float,
        tokens: int | None,
        may_die: bool,
    ) -> None:
        self.store = store
        self.scheduler = scheduler
        self.token_delay_s = token_delay_s
        self.tokens = tokens
        self.may_die = may_die
        self.in_flight: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.completed = 0
        self.cancelled = 0

    def stats(self) -> dict[str, Any]:
        return {
            "in_flight": {name: count for name, count in self.in_flight.items() if count},
            "peak_in_flight": dict(self.peak),
            "completed": self.completed,
            "cancelled": self.cancelled,
        }

    async def generate(self, x: Exchange, body: dict[str, Any]) -> None:
        await self._run(x, body, chat=False, empty=not (body.get("prompt") or body.get("images")))

    async def chat(self, x: Exchange, body: dict[str, Any]) -> None:
        if not body.get("model"):
            raise Refused(400, "model is required")
        await self._run(x, body, chat=True, empty=not body.get("messages"))

    async def embed(self, x: Exchange, body: dict[str, Any]) -> None:
        given = body.get("input", [])
        if not isinstance(given, str | list) or any(not isinstance(one, str) for one in given):
            raise Refused(400, "invalid input type")
        texts = [given] if isinstance(given, str) else given
        model = self.store.find(body.get("model") or "")
        size = body.get("dimensions") or model.dimensions
        runner, load_s = await self.scheduler.acquire(x, model, {}, True, None)
        await self.scheduler.release(runner)
        counts = {"load_duration": int(load_s * 1e9), "prompt_eval_count": sum(map(len, texts))}
        vectors = [replies.vector(text, size) for text in texts]
        await x.json({"model": model.name, "embeddings": vectors, "total_duration": 1000, **counts})

    async def embeddings(self, x: Exchange, body: dict[str, Any]) -> None:
        model = self.store.find(body.get("model") or "")
        await x.json({"embedding": replies.vector(body.get("prompt") or "", model.dimensions)})

    async def _run(self, x: Exchange, body: dict[str, Any], *, chat: bool, empty: bool) -> None:
        model = self.store.find(body.get("model") or "")
        keep_alive = check(model, body, chat, self.store)
        if empty and keep_alive == 0:
            await self.scheduler.unload(model)
            return await x.json(replies.end(model, chat, "unload", 0, 0, 0.0))
        options = body.get("options") or {}
        shift = body.get("shift") is not False
        try:
            runner, load_s = await self.scheduler.acquire(x, model, options, shift, keep_alive)
        except Gone:
            self.cancelled += 1
            raise
        self.in_flight[model.name] += 1
        self.peak[model.name] = max(self.peak[model.name], self.in_flight[model.name])
        try:
            if empty:
                return await x.json(replies.end(model, chat, "load", 0, 0, load_s))
            await self._answer(x, model, body, chat, load_s)
            self.completed += 1
        except Gone:
            self.cancelled += 1
            raise
        finally:
            self.in_flight[model.name] -= 1
            await self.scheduler.release(runner)

    async def _answer(self, x: Exchange, model: FakeModel, body: dict[str, Any], chat: bool, load_s: float) -> None:
        fault: Fault | None = body.pop("_fault", None)
        said, reason = replies.pieces(model, body, self.tokens)
        kind = fault.kind if fault is not None else ""
        if kind == "repeat":
            said = replies.REPEATED
        end = replies.end(model, chat, reason, replies.prompt_tokens(body, chat), len(said), load_s)
        if not chat and not body.get("raw"):
            end["context"] = [1, 2, 3]
        if fault is not None and kind == "hang" and fault.after is None:
            await x.pause(None)
        delay = fault.seconds if fault is not None and kind == "slow" else self.token_delay_s
        if body.get("stream") is False:
            await self._whole(x, model, said, end, fault, chat, delay)
            return
        lines = [replies.line(model.name, chat, *piece) for piece in said]
        await x.start_stream()
        if fault is not None and kind not in WHOLE:
            await self._faulty(x, lines, fault)
            return
        if kind == "join":
            await x.end_stream(b"".join((*lines, _line(end))))
            return
        for line in lines:
            if delay and (kind == "slow" or self.token_delay_s):  # a test may let a slow answer run on
                await x.pause(delay)
            if kind != "split":
                await x.write(line)
            else:
                assert fault is not None
                await _pieces(x, line, fault.size)
        if fault is not None and kind == "late_end":
            await x.write(_line(end))
            await x.pause(fault.seconds)
            await x.end_stream()
            return
        await x.end_stream(_line(end))

    async def _faulty(self, x: Exchange, lines: list[bytes], fault: Fault) -> None:
        """A stream that does not end well."""
        good = len(lines) if fault.after is None else fault.after
        for line in lines[:good]:
            if self.token_delay_s:
                await x.pause(self.token_delay_s)
            await x.write(line)
        if fault.kind in {"cut", "repeat"}:
            await x.end_stream()
            return
        await strikes.within(x, fault, lines[min(good, len(lines) - 1)], may_die=self.may_die)

    async def _whole(
        self,
        x: Exchange,
        model: FakeModel,
        said: list[tuple[str, str]],
        end: dict[str, Any],
        fault: Fault | None,
        chat: bool,
        delay: float,
    ) -> None:
        """The answer in one object."""
        if delay:
            await x.pause(delay * len(said))
        if fault is not None and fault.kind not in {*WHOLE, "cut", "repeat"}:
            if fault.kind not in {"error", "crash"}:
                await x.start_stream()
            await strikes.within(x, fault, b"{}", may_die=self.may_die)
            return
        whole = orjson.loads(replies.line(model.name, chat, *replies.joined(said)))
        if fault is None or fault.kind in WHOLE:
            text = {key: whole[key] for key in ("response", "message", "thinking", "tool_calls") if key in whole}
            whole = {**end, **text}
        await x.json(whole)


def _line(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value) + b"\n"


async def _pieces(x: Exchange, line: bytes, size: int) -> None:
    """A line over several TCP chunks."""
    for start in range(0, len(line), size):
        await x.write(line[start : start + size])
        await x.pause(0.0002)

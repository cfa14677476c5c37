"""A node of the pool bench: an engine with slots, a prompt cache per slot, a cold start, or nothing but 503.

The time of an answer follows what llama.cpp does: load once, wait for a slot, read what of the prompt the slot's
cache does not hold yet, then a token at a time.
"""

import argparse
import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import orjson
import uvloop

from bench.upstream import ABOUT, ollama
from bench.wire import ServerConnection

_BUSY = b'{"error":"server busy, please try again.  maximum pending requests exceeded"}'


def common(one: str, other: str) -> int:
    """How many characters two texts begin with alike; found by halves, for slices compare fast."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


@dataclass(frozen=True)
class Speed:
    """What the node is like; times in seconds."""

    slots: int
    load_s: float
    char_s: float
    """Reading one character of prompt."""
    token_s: float
    broken: bool


@dataclass
class Slot:
    """One generation at a time, and the prompt that it read last."""

    seen: str = ""
    used: float = 0.0


@dataclass
class Node:
    """The engine's state."""

    speed: Speed
    free: list[Slot] = field(default_factory=list)
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)
    loading: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.free = [Slot() for _ in range(self.speed.slots)]
        self.tasks: set[asyncio.Task[None]] = set()

    def handle(self, connection: ServerConnection, path: str, body: bytes) -> None:
        if path in {"/api/chat", "/api/generate"}:
            if self.speed.broken:
                connection.reply(_BUSY, "503 Service Unavailable")
                return
            task = asyncio.get_running_loop().create_task(self.answer(connection, path, orjson.loads(body)))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
            connection.on_lost = task.cancel
        elif path == "/api/ps" and not self.loaded:
            connection.reply(b'{"models":[]}')
        elif (about := ABOUT.get(path)) is not None:
            connection.reply(orjson.dumps(about))
        else:
            connection.reply(b'{"error":"not found"}', "404 Not Found")

    @property
    def loaded(self) -> bool:
        return self.speed.load_s == 0 or (self.loading is not None and self.loading.done())

    async def answer(self, connection: ServerConnection, path: str, body: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        if not self.loaded:
            if self.loading is None:
                self.loading = loop.create_task(asyncio.sleep(self.speed.load_s))
            await asyncio.shield(self.loading)
        load_s = loop.time() - began
        prompt = "".join(m["content"] for m in body.get("messages", ())) or body.get("prompt", "")
        key = "message" if path == "/api/chat" else "response"

        def said(text: str) -> dict[str, object]:
            return {key: {"role": "assistant", "content": text} if key == "message" else text}

        if not prompt:
            connection.on_lost = None
            connection.reply(orjson.dumps({**orjson.loads(ollama(said(""), True)), "done_reason": "load"}))
            return
        slot = await self.slot(prompt)
        try:
            fresh = len(prompt) - common(slot.seen, prompt)
            slot.seen, slot.used = prompt, loop.time()
            await asyncio.sleep(fresh * self.speed.char_s)
            tokens = (body.get("options") or {}).get("num_predict") or 16
            streamed = body.get("stream", True)
            if streamed:
                connection.begin("application/x-ndjson")
            for _ in range(tokens):
                if streamed:
                    connection.chunk(ollama(said("Zq "), False))
                await asyncio.sleep(self.speed.token_s)
            end = orjson.loads(ollama(said("" if streamed else "Zq " * tokens), True))
            end |= {"load_duration": int(load_s * 1e9) or 1000, "eval_count": tokens}
            end |= {"prompt_eval_duration": int(fresh * self.speed.char_s * 1e9)}
            end |= {"eval_duration": int(tokens * self.speed.token_s * 1e9), "prompt_eval_count": len(prompt) // 4}
            connection.on_lost = None
            (connection.end if streamed else connection.reply)(orjson.dumps(end) + b"\n")
        finally:
            self.give_back(slot)

    async def slot(self, prompt: str) -> Slot:
        """First come, first served; of the free slots the one that has read most of the prompt."""
        if not self.free or self.waiting:
            turn = asyncio.get_running_loop().create_future()
            self.waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self.wake()
                raise
        best = max(self.free, key=lambda one: (common(one.seen, prompt), -one.used))
        self.free.remove(best)
        return best

    def give_back(self, slot: Slot) -> None:
        self.free.append(slot)
        self.wake()

    def wake(self) -> None:
        while self.waiting:
            turn = self.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return


async def serve(port: int, speed: Speed) -> None:
    node = Node(speed)
    server = await asyncio.get_running_loop().create_server(
        lambda: ServerConnection(node.handle), "127.0.0.1", port, backlog=2048
    )
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--load-s", type=float, default=0.0)
    parser.add_argument("--char-s", type=float, default=0.0001)
    parser.add_argument("--token-s", type=float, default=0.01)
    parser.add_argument("--broken", action="store_true")
    given = vars(parser.parse_args())
    uvloop.run(serve(given.pop("port"), Speed(**given)))

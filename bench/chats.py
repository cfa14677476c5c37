"""Conversations with shared beginnings, closed loop: `python -m bench.chats SPEC`, results as JSON.

Every user holds one conversation after another. It begins with the long instructions of one of a few applications,
and each turn sends all that was said so far, as chat clients do. A turn that fails counts, and the user goes on.
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import uvloop

from bench.load import quantiles

_WORDS = (
    "graph",
    "colour",
    "prime",
    "proof",
    "bound",
    "edge",
    "clique",
    "order",
    "field",
    "ring",
    "map",
    "path",
    "tree",
)


@dataclass(frozen=True)
class Spec:
    """What to ask, of whom."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    model: str = "ramsey-model:v1.1"
    users: int = 10
    turns: int = 5
    tokens: int = 24
    applications: int = 4
    instruction_chars: int = 6000
    turn_chars: int = 200
    think_s: float = 0.2
    seconds: float = 30.0
    warmup: float = 0.0
    settle_s: float = 12.0
    """What begins later counts as settled."""


def words(rng: random.Random, chars: int) -> str:
    text = ""
    while len(text) < chars:
        text += rng.choice(_WORDS) + " "
    return text[:chars]


class Chats:
    """One run."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        rng = random.Random(11)
        self.instructions = [words(rng, spec.instruction_chars) for _ in range(spec.applications)]
        self.firsts: list[tuple[float, float]] = []
        self.failures: Counter[str] = Counter()
        self.tokens = 0

    async def run(self) -> dict[str, Any]:
        spec = self.spec
        connector = aiohttp.TCPConnector(limit=0)
        self.began = time.monotonic()
        async with aiohttp.ClientSession(connector=connector, headers=spec.headers) as session:
            await asyncio.gather(*(self.user(session, number) for number in range(spec.users)))
        seconds = time.monotonic() - self.began
        settled = [first for began, first in self.firsts if began >= spec.settle_s]
        return {
            "requests": len(self.firsts),
            "failed": sum(self.failures.values()),
            "failures": dict(self.failures),
            "per_second": round(len(self.firsts) / seconds, 2),
            "tokens_per_second": round(self.tokens / seconds, 1),
            "first_ms": quantiles([first for _, first in self.firsts]),
            "settled_first_ms": quantiles(settled),
        }

    async def user(self, session: aiohttp.ClientSession, number: int) -> None:
        spec, rng = self.spec, random.Random(number)
        end = self.began + spec.seconds
        await asyncio.sleep(number * 0.03)
        while time.monotonic() < end:
            messages = [{"role": "system", "content": rng.choice(self.instructions)}]
            for _ in range(spec.turns):
                messages.append({"role": "user", "content": words(rng, spec.turn_chars)})
                answer = await self.ask(session, messages)
                messages.append({"role": "assistant", "content": answer or "I could not answer."})
                await asyncio.sleep(rng.uniform(0.5, 1.5) * spec.think_s)
                if time.monotonic() >= end:
                    return

    async def ask(self, session: aiohttp.ClientSession, messages: list[dict[str, str]]) -> str | None:
        spec = self.spec
        body = {"model": spec.model, "messages": messages, "stream": True, "options": {"num_predict": spec.tokens}}
        sent, first, said, done = time.monotonic(), None, "", False
        try:
            async with session.post(spec.url + "/api/chat", json=body) as answer:
                if answer.status != 200:
                    self.failures[str(answer.status)] += 1
                    return None
                async for line in answer.content:
                    piece = json.loads(line)
                    text = piece.get("message", {}).get("content", "")
                    if text and first is None:
                        first = time.monotonic()
                    self.tokens += bool(text)
                    said, done = said + text, bool(piece.get("done"))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self.failures[type(error).__name__] += 1
            return None
        if not done or first is None:
            self.failures["incomplete"] += 1
            return None
        self.firsts.append((sent - self.began, first - sent))
        return said


async def main(spec: Spec) -> None:
    print(json.dumps(await Chats(spec).run()))


if __name__ == "__main__":
    uvloop.run(main(Spec(**json.loads(sys.argv[1]))))

"""Slots and queue over nodes that nobody asks: what holds whatever callers, nodes and operators do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from deployment.clock import SystemClock
from deployment.engines import Priority
from deployment.engines.admission import Admission, Slot
from deployment.engines.metrics import PoolMetrics
from deployment.engines.model import NodeSpec
from deployment.engines.node import Node
from deployment.engines.placement import Ask
from deployment.engines.policies.least_expected_ttft import LeastExpectedTtft
from deployment.engines.prefix import block_hashes
from deployment.errors import RateLimited
from deployment.ollama_client import OllamaClient
from deployment.settings import PoolSettings

RELEASE = "m:v1"
SLOTS, LOOK_AHEAD = 2, 1


@asynccontextmanager
async def admission(nodes: int, **settings: Any) -> AsyncIterator[Admission]:
    made = PoolSettings(look_ahead=LOOK_AHEAD, **settings)
    found = Admission(made, LeastExpectedTtft(2.0), SystemClock(), PoolMetrics(CollectorRegistry()))
    clients: list[OllamaClient] = []
    for name in "abc"[:nodes]:
        url = f"http://127.0.0.1:{1 + len(clients)}"
        clients.append(OllamaClient(url))
        found.nodes[name] = Node(NodeSpec(name, url, SLOTS), clients[-1], 1000)
    try:
        yield found
    finally:
        found.close()
        for client in clients:
            await client.close()


async def acquire(
    made: Admission,
    text: str = "",
    again: bool = False,
    tenant: str = "t",
    priority: Priority = Priority.INTERACTIVE,
) -> Slot:
    ask = Ask(RELEASE, len(text), block_hashes(RELEASE, text))
    deadline = SystemClock().monotonic() + 60
    return await made.acquire(ask, tenant=tenant, priority=priority, cost=1.0, deadline=deadline, again=again)


async def turns(many: int = 5) -> None:
    for _ in range(many):
        await asyncio.sleep(0)


async def test_a_conversation_waits_for_the_slot_that_holds_it_though_another_is_free() -> None:
    async with admission(1) as made:
        node = made.nodes["a"]
        learned = node.on(RELEASE).learned
        learned.service_s, learned.overhead_s, learned.char_s = 0.5, 0.01, 0.01  # reading 1280 characters: 12.8 s
        first = await acquire(made, "mine" * 320)
        second = asyncio.create_task(acquire(made, "mine" * 320 + "more" * 32))
        await turns()
        assert not second.done()
        (await acquire(made, "other" * 50)).free()  # what shares nothing goes at once
        first.free()
        await turns()
        assert (await second).held_chars == 1280


steps = st.lists(
    st.tuples(
        st.sampled_from(["come", "come", "again", "leave", "end", "end", "drain", "share", "member"]),
        st.integers(0, 20),
    ),
    max_size=50,
)


@given(steps)
def test_slots_are_never_exceeded_or_negative_and_each_request_has_one_outcome(history: list[tuple[str, int]]) -> None:
    asyncio.run(_play(history))


async def _play(history: list[tuple[str, int]]) -> None:
    async with admission(3, queue_size=5) as made:
        game = Game(made)
        for what, number in history:
            getattr(game, what)(number)
            await turns()
            game.look()
        await game.end_all()


@dataclass
class Game:
    """Callers, nodes and operators, each move counted."""

    made: Admission
    waiting: list[asyncio.Task[Slot]] = field(default_factory=list)
    held: list[Slot] = field(default_factory=list)
    away: dict[str, Node] = field(default_factory=dict)
    came: int = 0
    gone: int = 0
    """With any outcome: refused, cancelled, or with a slot."""

    def come(self, number: int, again: bool = False) -> None:
        self.came += 1
        text = "abcd"[number % 4] * 64 * (number % 5)
        call = acquire(self.made, text, again, "xy"[number % 2], list(Priority)[number % 2])
        self.waiting.append(asyncio.create_task(call))

    def again(self, number: int) -> None:
        self.come(number, again=True)

    def leave(self, number: int) -> None:
        if self.waiting:
            self.waiting[number % len(self.waiting)].cancel()

    def end(self, number: int) -> None:
        if self.held:
            slot = self.held.pop(number % len(self.held))
            slot.free()
            slot.free()

    def drain(self, number: int) -> None:
        if node := self.made.nodes.get("abc"[number % 3]):
            node.draining = not node.draining
            self.made.changed()

    def share(self, number: int) -> None:
        if node := self.made.nodes.get("abc"[number % 3]):
            node.share = number % (SLOTS + 1)
            self.made.changed()

    def member(self, number: int) -> None:
        name = "abc"[number % 3]
        if name in self.away:
            self.made.nodes[name] = self.away.pop(name)
            self.made.changed()
        elif len(self.made.nodes) > 1:
            self.away[name] = self.made.nodes.pop(name)

    def look(self) -> None:
        """What must hold after each move."""
        for task in [task for task in self.waiting if task.done()]:
            self.waiting.remove(task)
            self.gone += 1
            if not task.cancelled() and not isinstance(task.exception(), RateLimited):
                self.held.append(task.result())
        for node in [*self.made.nodes.values(), *self.away.values()]:
            assert node.in_flight == sum(slot.node is node for slot in self.held) <= SLOTS + LOOK_AHEAD
        assert self.made.waiting() == len(self.waiting)
        assert self.came == self.gone + len(self.waiting)
        if self.waiting:
            assert not any(n.in_flight == 0 and n.share and not n.draining for n in self.made.nodes.values())

    async def end_all(self) -> None:
        """Whoever still waits is served."""
        self.made.nodes.update(self.away)
        for node in self.made.nodes.values():
            node.draining, node.share = False, SLOTS
        self.made.changed()
        while self.held or self.waiting:
            before = len(self.waiting)
            while self.held:
                self.end(0)
            await turns()
            self.look()
            assert self.held or before == 0
        assert sum(node.in_flight for node in self.made.nodes.values()) == self.made.waiting() == 0

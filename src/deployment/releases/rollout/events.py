"""Tells webhooks what happens. A slow or broken one never holds a rollout up: it is tried, then given up."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import structlog

from deployment.background import going_on
from deployment.database import Database
from deployment.errors import DatabaseUnavailable
from deployment.releases.rollout.plan import Webhook
from deployment.releases.rollout.store import Event, RolloutStore

_POLL_S = 1.0
_TRIES = 3
_FIRST_PAUSE_S = 0.5

_SIGNS = {"rolled_back": "⚠", "refused": "⚠", "aborted": "⚠", "held": "✋", "promoted": "✓", "done": "✓"}

_log = structlog.get_logger("rollouts")


def told(event: Event, shape: str) -> dict[str, Any]:
    """The body of a message."""
    if shape == "slack":
        sign = _SIGNS.get(event.kind, "•")
        where = f"{event.detail['model']}: {event.detail['from']} → {event.detail['to']}"
        harmed = f"\nRequests harmed: {event.detail['harmed']}" if event.detail.get("harmed") else ""
        return {"text": f"{sign} *{where}* {event.kind.replace('_', ' ')}\n{event.text}{harmed}"}
    return {
        "event": f"rollout.{event.kind}",
        "id": event.seq,
        "rollout": event.rollout,
        "at": event.at.isoformat(),
        "text": event.text,
        "actor": event.actor,
        **event.detail,
    }


class Notifier:
    """On the leader. At least once: who was told while the process died is told again."""

    def __init__(self, database: Database, store: RolloutStore, leads: Callable[[], bool]) -> None:
        self._database, self._store, self._leads = database, store, leads

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Tell in the background until the end."""
        async with going_on(self._loop, "webhooks"):
            yield

    async def _loop(self) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                await asyncio.sleep(_POLL_S)
                if self._leads():
                    with contextlib.suppress(DatabaseUnavailable):
                        await self._tell(session)

    async def _tell(self, session: aiohttp.ClientSession) -> None:
        async with self._database.read() as connection:
            events = await self._store.untold(connection)
            plans = {event.rollout: await self._store.get(connection, event.rollout) for event in events}
        for event in events:
            rollout = plans[event.rollout]
            hooks = rollout.plan.webhooks if rollout is not None else ()
            await asyncio.gather(*(_deliver(session, hook, event) for hook in hooks))
            async with self._database.write() as connection:
                await self._store.note_told(connection, event.seq)


async def _deliver(session: aiohttp.ClientSession, hook: Webhook, event: Event) -> None:
    pause = _FIRST_PAUSE_S
    problem = ""
    for left in reversed(range(_TRIES)):
        try:
            async with session.post(
                hook.url,
                data=orjson.dumps(told(event, hook.shape)),
                headers={"Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(hook.timeout),
                allow_redirects=False,
            ) as answer:
                if answer.status < 300:
                    return
                problem = f"status {answer.status}"
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            problem = type(error).__name__
        if left:
            await asyncio.sleep(pause)
            pause *= 4
    # The address may hold a secret: only its host is told.
    _log.warning("a webhook was not told", host=hook.host, kind=event.kind, reason=problem, rollout=event.rollout)

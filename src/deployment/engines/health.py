"""Checks of the nodes: each node has its own task, so that one that hangs delays no other's check."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import structlog

from deployment.background import forever
from deployment.clock import Clock
from deployment.engines import breaker
from deployment.engines.admission import Admission
from deployment.engines.learned import blend
from deployment.engines.model import NodeState
from deployment.engines.node import Checked, Node
from deployment.engines.outcomes import Outcomes
from deployment.engines.warm import Warmer
from deployment.errors import (
    EngineError,
    EngineProtocolError,
    EngineTimeout,
    EngineUnavailable,
    ModelMissing,
)
from deployment.ollama_client import Timeouts, collect
from deployment.settings import PoolSettings

_log = structlog.get_logger("engines")
_AFTER_FAILURE_S = 1.0


def digests_of(tags: Iterable[Mapping[str, Any]], expected: Mapping[str, str | None]) -> dict[str, str]:
    """Release to digest, of the releases that are what they should be. Names compare in lower case."""
    held = {str(row.get("name")).lower(): str(row.get("digest")) for row in tags}
    return {name: digest for name, digest in held.items() if expected.get(name) in {None, digest}}


def problem_of(
    tags: Iterable[Mapping[str, Any]], version: str, wanted: str | None, expected: Mapping[str, str | None]
) -> str | None:
    """What is wrong with what a node says of itself, in words; None when it is fine."""
    if wanted is not None and version != wanted:
        return f"It runs Ollama {version}; the pool needs {wanted}."
    held = {str(row.get("name")).lower(): str(row.get("digest")) for row in tags}
    for name, digest in expected.items():
        if name in held and digest not in {None, held[name]}:
            return f"Its {name} is another model (digest {held[name][:12]}, not {str(digest)[:12]})."
    return None


def generates(tags: Iterable[Mapping[str, Any]], release: str) -> bool:
    """Whether a release makes text, as far as the node says."""
    for row in tags:
        if str(row.get("name")).lower() == release:
            return "completion" in (row.get("capabilities") or ["completion"])
    return False


class Health:
    """Watches every node until it leaves the pool."""

    def __init__(
        self,
        settings: PoolSettings,
        keep_alive: str | int,
        clock: Clock,
        admission: Admission,
        outcomes: Outcomes,
        warmer: Warmer,
        expected: Callable[[], Mapping[str, str | None]],
    ) -> None:
        self._settings = settings
        self._keep_alive = keep_alive
        self._clock = clock
        self._admission = admission
        self._outcomes = outcomes
        self._warmer = warmer
        self._expected = expected
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._wake: dict[str, asyncio.Event] = {}
        self._checking: dict[str, asyncio.Lock] = {}

    def watch(self, node: Node) -> None:
        """Check the node from now on."""
        self._wake[node.name] = asyncio.Event()
        self._checking[node.name] = asyncio.Lock()
        self._watches[node.name] = asyncio.create_task(
            forever(partial(self._watch, node), f"checks of {node.name}"), name=f"health {node.name}"
        )

    def look_again(self, node: Node) -> None:
        """Something happened on the node: check it soon."""
        if event := self._wake.get(node.name):
            event.set()

    async def unwatch(self, node: Node) -> None:
        """The node left."""
        await self._cancel([self._watches.pop(node.name)] if node.name in self._watches else [])
        self._wake.pop(node.name, None)
        self._checking.pop(node.name, None)

    async def close(self) -> None:
        """End all checks."""
        watches, self._watches = list(self._watches.values()), {}
        await self._cancel(watches)

    async def check(self, node: Node, *, at_once: bool = False) -> None:
        """One check, its result written to the node.

        Of a node that is out only once its back-off is over, or `at_once`.
        """
        async with self._checking[node.name]:
            probe = self._outcomes.probing(node, at_once=at_once)
            if not probe and node.breaker.phase is breaker.Phase.OPEN:
                return  # not yet
            try:
                await self._check(node, probe)
            except EngineError as error:
                self._failed(node, error)
            except BaseException:
                if probe:
                    self._outcomes.probe_cancelled(node)
                raise
            self._admission.changed()

    async def _watch(self, node: Node) -> None:
        wake = self._wake[node.name]
        while True:
            if node.breaker.phase is breaker.Phase.OPEN:
                # What else happens on a node that is out is no news.
                await asyncio.sleep(max(0.01, node.breaker.retry_at - self._clock.monotonic()))
            wake.clear()
            await self.check(node)
            pause = self._settings.health_interval
            if node.checked.ok is False:
                pause = min(pause, _AFTER_FAILURE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await wake.wait()
                    await asyncio.sleep(min(0.05, pause))  # not once for every failed request

    async def _check(self, node: Node, probe: bool) -> None:
        expected, limit = self._expected(), self._settings.health_timeout
        version = str((await node.client.request("GET", "/api/version", timeout_s=limit)).get("version", ""))
        tags, ps = await self._list(node, "/api/tags"), await self._list(node, "/api/ps")
        problem = problem_of(tags, version, self._settings.engine_version, expected)
        digests = digests_of(tags, expected)
        _note_loaded(node, {str(row.get("name")) for row in ps})
        was, ok = node.checked.ok, problem is None
        for on in node.releases:  # lists don't clear a lost blob, a generation does
            on.missing = on.missing and on.release in digests and generates(tags, on.release)
        if release := self._to_try(node, tags, digests, expected):
            try:
                if await self._generate(node, release, probe):
                    node.on(release).missing = False
            except ModelMissing as error:
                node.on(release).missing = True
                problem = problem or error.message
        node.checked = Checked(self._clock.now(), ok, problem, version, tags, ps, digests)
        if ok and node.breaker.phase is not breaker.Phase.CLOSED:
            self._outcomes.succeeded(node)
        if was is not ok:
            _log.info("node checked", node=node.name, ok=ok, problem=problem)
        self._warm(node, tags, digests, expected)

    async def _list(self, node: Node, path: str) -> list[dict[str, Any]]:
        answer = await node.client.request("GET", path, timeout_s=self._settings.health_timeout)
        models = answer.get("models")
        if not isinstance(models, list) or not all(isinstance(row, dict) for row in models):
            raise EngineProtocolError("The engine's answer holds no list of models.")
        return models

    def _to_try(
        self,
        node: Node,
        tags: list[dict[str, Any]],
        digests: Mapping[str, str],
        expected: Mapping[str, str | None],
    ) -> str | None:
        """A release to generate a token of: first one that failed lately, else any that the pool serves."""
        fit = [
            name
            for name in expected
            if name in digests and generates(tags, name) and self._admission.belongs(node, name)
        ]
        return next((name for name in fit if node.on(name).missing), fit[0] if fit else None)

    async def _generate(self, node: Node, release: str, probe: bool) -> bool:
        """One token within the limit, if it is time for it: a node whose lists look well may still hang.

        Not where answers flow anyhow, and not when every slot is taken: then requests' own time-outs tell. A
        release that is not loaded is loaded by the warmer; only a probe waits for that.
        """
        on = node.on(release)
        suspicious = probe or on.missing or node.checked.ok is False
        flows = self._clock.monotonic() - node.progress_at < self._settings.health_interval
        if not on.loaded:
            if suspicious and (error := await asyncio.shield(self._warmer.ensure(node, release))):
                raise error
            if not suspicious:
                return False
        elif flows and node.progress_at and not suspicious:
            return False
        if (slot := self._admission.take(node, release)) is None:
            return False
        body = {
            "model": release,
            "prompt": "1",
            "stream": False,
            "keep_alive": self._keep_alive,
            "options": {"num_predict": 1},
        }
        limits = Timeouts(total=self._settings.health_timeout)
        began = self._clock.monotonic()
        try:
            done = (await collect(node.client.events("/api/generate", body, timeouts=limits))).done
        finally:
            slot.free()
        # A node that gets no work for having been slow once must be able to look better again.
        spent_s = self._clock.monotonic() - began - (done.load_ms + done.prompt_ms) / 1e3
        on.learned.overhead_s = blend(on.learned.overhead_s, max(0.0, spent_s))
        return True

    def _warm(
        self,
        node: Node,
        tags: list[dict[str, Any]],
        digests: Mapping[str, str],
        expected: Mapping[str, str | None],
    ) -> None:
        if node.draining or not node.checked.ok:
            return
        for name in expected:
            if name in digests and not node.on(name).loaded and self._admission.belongs(node, name):
                self._warmer.ensure(node, name)

    def _failed(self, node: Node, error: EngineError) -> None:
        if node.checked.ok is not False:
            _log.warning("node fails its check", node=node.name, reason=error.message)
        checked = node.checked
        node.checked = Checked(
            self._clock.now(), False, error.message, checked.version, checked.tags, [], checked.digests
        )
        self._outcomes.gone(node, error)
        silent = isinstance(error, EngineTimeout | EngineUnavailable)
        if silent and any(other.state() is NodeState.HEALTHY for other in self._admission.nodes.values()):
            node.give_up_waiting()

    async def _cancel(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _note_loaded(node: Node, listed: set[str]) -> None:
    """/api/ps names a runner by the tag that loaded it; another tag of the same weights is loaded all the same."""
    for on in node.releases:
        if on.release in listed:
            on.loaded = True
        elif not listed or on.loaded is None:
            on.loaded = False

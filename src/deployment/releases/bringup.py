"""What happens behind a gateway that has just started: an engine, the release on it, then traffic."""

import asyncio
import contextlib
from collections.abc import Iterable
from types import TracebackType
from typing import Self

import structlog

from deployment.background import forever
from deployment.engines import EnginePool, NodeView, RunningEngine, launch
from deployment.errors import DatabaseUnavailable, DiskFull, EngineUnavailable, RamseyError
from deployment.ollama_client import OllamaClient
from deployment.releases.catalogue import SETTINGS_ACTOR, CannotKeep, CatalogueEntry, CatalogueRoom
from deployment.releases.deploy import LOOK, deploy, release_of
from deployment.releases.mending import Mender, belonging
from deployment.releases.model import Release
from deployment.releases.traffic import SETTINGS, Split, Traffic, TrafficSync
from deployment.settings import Settings

_FIRST_RETRY_S, _LAST_RETRY_S = 1.0, 30.0

_MEND_S = 5.0

_log = structlog.get_logger("bring-up")


class BringUp:
    """Runs beside the gateway, so that the gateway is there at once and says what it still waits for.

    `problem` is what it waits for, in words for people; None once the release has traffic. Where a person or a
    rollout has set the traffic, that wins over the settings.
    """

    def __init__(
        self, settings: Settings, pool: EnginePool, traffic: Traffic, sync: TrafficSync, room: CatalogueRoom
    ) -> None:
        self._settings, self._pool, self._traffic, self._sync = settings, pool, traffic, sync
        self._room = room
        self._mender = Mender(room, traffic, sync, pool)
        self.problem: str | None = "The engine is starting."
        self._engine: RunningEngine | None = None
        self._pool_started = False
        self._unkept = False
        """The settings' release comes straight from its file, or is one that nodes hold already."""
        self._digests: dict[str, set[str]] = {}
        self._refused: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin."""
        self._task = asyncio.create_task(forever(self._run, "bringing up"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Close the pool, and stop the engine where we started it."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._mender.close()
        await self._pool.close()
        if self._engine:
            await self._engine.stop()

    async def _run(self) -> None:
        wait = _FIRST_RETRY_S
        while True:
            try:
                await self._once()
            except RamseyError as error:
                self.problem = f"{error.message} {error.hint or ''}".strip()
                _log.warning("not serving yet", reason=self.problem, retry_s=wait)
                await asyncio.sleep(wait)
                wait = min(wait * 2, _LAST_RETRY_S)
            except Exception as error:
                self.problem = f"It did not come up: unexpected {type(error).__name__}; the log says more."
                raise
            else:
                self.problem = None
                break
        await self._mend()

    async def _once(self) -> None:
        settings = self._settings
        if self._engine is None and settings.engine.launch and not (settings.pool.nodes or settings.pool.dns):
            self._engine = await launch(settings)
        if not self._pool_started:  # only now: checking an engine that is still starting would call it broken
            await self._pool.start()
            self._pool_started = True
        nodes = self._pool.view()
        if not nodes:
            raise EngineUnavailable("There is no node in the pool.")
        split = self._traffic.split(settings.model.name)
        if split is not None and split.set_by != SETTINGS:
            await self._keep_to(split)
            return
        entry = await self._adopted()
        for release in {entry.name} if entry is not None else await self._deploy_to(nodes):
            if entry is not None:
                await self._mender.bring(release, nodes)
                await self._expect(release)
            await self._sync.seed(settings.model.name, release)
            _log.info("serving", release=release)
        if entry is not None:
            await self._prune()

    async def _keep_to(self, split: Split) -> None:
        """Serve as somebody has decided; the settings' release is kept, and has what traffic it was given."""
        _log.info("the traffic is not the settings'", set_by=split.set_by, reason=split.reason, releases=split.releases)
        self._sync.on_change()
        await self._pool.check()
        try:
            name = await self._settings_release()
        except RamseyError as error:
            _log.warning("the settings' release is left out", reason=error.message)
            name = None
        if name is not None and name not in split.releases:
            _log.warning("the settings' release is not served", release=name, hint="ramsey deploy gives it traffic.")
        elif name is not None and self._unkept:
            await self._deploy_to(self._pool.view())
        with contextlib.suppress(DatabaseUnavailable):  # nodes serve what they hold
            await self._mender.mend()
            for share in split.shares:
                if share.weight > 0 and await self._room.catalogue.find(share.release) is not None:
                    await self._mender.bring(share.release, belonging(self._pool.view(), share.nodes))

    async def _settings_release(self) -> str | None:
        """What the settings' Modelfile is called, kept if it can be; None where no node can say."""
        if (entry := await self._adopted()) is not None:
            return entry.name
        for node in self._pool.view():
            with contextlib.suppress(RamseyError):
                async with OllamaClient(node.url, self._settings.model.name, timeouts=LOOK) as client:
                    return await release_of(client, self._settings)
        return None

    async def _adopted(self) -> CatalogueEntry | None:
        """The settings' release as the catalogue keeps it; None where it cannot: then it comes straight from its file.

        A disk or database that fails must not keep a model from being served that the nodes could serve.
        """
        try:
            entry = await self._room.catalogue.adopt()
        except (DatabaseUnavailable, DiskFull, CannotKeep) as error:
            if not self._unkept:
                _log.error("the settings' release is not kept", reason=error.message, hint=error.hint)
            self._unkept = True
            return None
        self._unkept = entry is None
        return entry

    async def _expect(self, release: str) -> None:
        """A release that has no traffic yet is to be warm when it gets some."""
        self._pool.expect(self._traffic.expected() | {release: self._traffic.digest(release)}, self._traffic.places())
        await self._pool.check()

    async def _prune(self) -> None:
        try:
            await self._room.prune(SETTINGS_ACTOR)
        except RamseyError as error:
            _log.warning("old releases stay on the nodes", reason=error.message)

    async def _mend(self) -> None:
        """Give releases to nodes that came late or lost them."""
        while True:
            await asyncio.sleep(_MEND_S)
            if self._unkept:
                with contextlib.suppress(RamseyError):
                    await self._adopted()
            await self._mender.mend()
            own = self._digests.keys() & self._traffic.expected().keys()
            if nodes := [node for node in self._pool.view() if lacks_a_release(node, own)]:
                with contextlib.suppress(RamseyError):  # it was logged; next time again
                    await self._deploy_to(nodes)

    async def _deploy_to(self, nodes: list[NodeView]) -> set[str]:
        """The releases that are now on at least one of these nodes. Raises what the first failure was, if on none."""
        results = await asyncio.gather(*(self._deploy(node.url) for node in nodes), return_exceptions=True)
        for node, result in zip(nodes, results, strict=True):
            if isinstance(result, RamseyError):
                if self._refused.get(node.name) != result.message:  # each reason once, however often it is tried
                    _log.warning("not deployed", node=node.name, reason=result.message)
                self._refused[node.name] = result.message
            elif isinstance(result, BaseException):
                raise result
            else:
                self._refused.pop(node.name, None)
                self._digests.setdefault(result.name, set()).add(result.digest)
                self._traffic.learn(result.name, result.traits)
        if not (names := {result.name for result in results if isinstance(result, Release)}):
            raise next(result for result in results if isinstance(result, RamseyError))
        # Ollama rewrites weights, so that two versions of it may give one release two digests; then none is expected.
        for name, one in self._digests.items():
            self._traffic.know_digest(name, one.copy().pop() if len(one) == 1 else None)
        expected = self._traffic.expected()
        self._pool.expect(expected | {name: self._traffic.digest(name) for name in names}, self._traffic.places())
        await self._pool.check()
        return names

    async def _deploy(self, url: str) -> Release:
        async with OllamaClient(url, self._settings.model.name, timeouts=LOOK) as client:
            return await deploy(client, self._settings)


def lacks_a_release(node: NodeView, releases: Iterable[str]) -> bool:
    """Whether a node answers, but does not hold every one of these."""
    held = {each.release for each in node.releases if each.present}
    return node.version is not None and not held.issuperset(releases)

"""Whom the verbs of releases ask: a gateway, else this machine's own database, weights and nodes."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import typer

from deployment.cli.admin import called
from deployment.cli.context import gateway_of, settings_of
from deployment.cli.gateway import Gateway, told_error
from deployment.errors import ConfigurationError, EngineUnavailable, RamseyError

if TYPE_CHECKING:
    from deployment.releases import LocalReleases
    from deployment.settings import Settings

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="Gateway to ask, with the key in RAMSEY_API_KEY; by default the one that runs here, else the database "
        "itself.",
        metavar="URL",
    ),
]
Piece = dict[str, Any]
_Result = TypeVar("_Result")


class Works(Protocol):
    """Releases, wherever they are asked."""

    def create(
        self, path: Path, model: str | None, version: str | None, notes: str = "", *, again: bool = False
    ) -> Piece:
        """Keep a release of the Modelfile at `path`."""
        ...

    def get(self, path: str) -> Piece:
        """The object at `path`."""
        ...

    def items(self, path: str) -> list[Piece]:
        """The list at `path`."""
        ...

    def post_items(self, path: str, body: Piece) -> list[Piece]:
        """The list that answers `body`."""
        ...

    def delete(self, path: str) -> None:
        """Delete what is at `path`."""
        ...

    def follow(self, path: str, body: Piece, told: Callable[[Piece], None]) -> Piece:
        """The last piece of a streamed answer; `told` gets each before."""
        ...


def releases_of(context: typer.Context, url: str | None, *, nodes: bool = False) -> Works:
    """The gateway where a `url` or a key is given, or where one runs here and lets us in; else this machine.

    Without `nodes` this machine is as good where the gateway keeps us out: who works here has the database.
    """
    from deployment.settings import api_key

    if url is not None or api_key() is not None:
        return OverGateway(gateway_of(context, url))
    gateway = OverGateway(gateway_of(context, None))
    try:
        gateway.items("/admin/releases?model=-")
    except EngineUnavailable:
        return OnThisMachine(settings_of(context), nodes=nodes)  # none runs here
    except RamseyError as error:
        if nodes or error.code not in {"unauthenticated", "forbidden"}:
            raise
        return OnThisMachine(settings_of(context), nodes=False)
    return gateway


class OverGateway:
    """Asks a gateway; files go there whole."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def create(
        self, path: Path, model: str | None, version: str | None, notes: str = "", *, again: bool = False
    ) -> Piece:
        """Upload the files that the gateway lacks, then make the release of them."""
        import hashlib
        from dataclasses import replace

        from deployment import modelfile as modelfiles
        from deployment.gguf import read_metadata

        modelfile = modelfiles.load(path)
        if modelfile.from_path is None:
            raise ConfigurationError(
                f"The Modelfile builds on {modelfile.from_}, a model on the engine: its weights cannot be kept.",
                hint="Name a GGUF file instead: FROM ./model.gguf.",
            )
        read_metadata(modelfile.from_path)
        names: dict[str, str] = {}
        for file in (modelfile.from_path, *map(Path, modelfile.adapters)):
            with file.open("rb") as content:
                sha256 = hashlib.file_digest(content, "sha256").hexdigest()
                names[str(file)] = sha256
                if again or not self._gateway.get(f"/admin/releases/blobs/{sha256}")["present"]:
                    content.seek(0)
                    self._gateway.send(f"/admin/releases/blobs/{sha256}", content, file.stat().st_size)
        text = modelfiles.render(
            replace(
                modelfile,
                from_=f"sha256:{names[str(modelfile.from_path)]}",
                adapters=tuple(f"sha256:{names[each]}" for each in modelfile.adapters),
            )
        )
        files = {f"sha256:{sha256}": sha256 for sha256 in names.values()}
        body = {"model": model, "version": version, "notes": notes, "again": again}
        return self._gateway.post("/admin/releases", body | {"modelfile": text, "files": files})

    def get(self, path: str) -> Piece:
        """The object at `path`."""
        return self._gateway.get(path)

    def items(self, path: str) -> list[Piece]:
        """The list at `path`."""
        return self._gateway.items(path)

    def post_items(self, path: str, body: Piece) -> list[Piece]:
        """The list that answers `body`."""
        return self._gateway.post_items(path, body)

    def delete(self, path: str) -> None:
        """Delete what is at `path`."""
        self._gateway.delete(path)

    def follow(self, path: str, body: Piece, told: Callable[[Piece], None]) -> Piece:
        """The last piece of a streamed answer."""
        last: Piece = {}
        for last in self._gateway.stream(path, body):
            told(last)
        return last


class OnThisMachine:
    """The same over the settings' database and, where wanted, their nodes."""

    def __init__(self, settings: "Settings", *, nodes: bool) -> None:
        self._settings, self._nodes = settings, nodes

    def create(
        self, path: Path, model: str | None, version: str | None, notes: str = "", *, again: bool = False
    ) -> Piece:
        """Keep a release of the Modelfile at `path`."""
        from deployment.releases import Wish

        async def work(local: "LocalReleases") -> Piece:
            wish = Wish(model or self._settings.model.name, version, notes, again)
            made = await local.room.catalogue.create(path, wish, local.operator)
            return dict(await self._ask(local, "GET", f"/admin/releases/{made.name}"))

        return self._run(work)

    def get(self, path: str) -> Piece:
        """The object at `path`."""
        return dict(self._run(lambda local: self._ask(local, "GET", path)))

    def items(self, path: str) -> list[Piece]:
        """The list at `path`."""
        return list(self._run(lambda local: self._ask(local, "GET", path)))

    def post_items(self, path: str, body: Piece) -> list[Piece]:
        """The list that answers `body`."""
        return list(self._run(lambda local: self._ask(local, "POST", path, body)))

    def delete(self, path: str) -> None:
        """Delete what is at `path`."""
        self._run(lambda local: self._ask(local, "DELETE", path))

    def follow(self, path: str, body: Piece, told: Callable[[Piece], None]) -> Piece:
        """The last piece of a streamed answer."""
        last: Piece = {}

        def take(content: bytes) -> None:
            nonlocal last
            for line in content.decode().splitlines():
                if line.startswith("data: "):
                    last = json.loads(line.removeprefix("data: "))
                    told(last)

        async def work(local: "LocalReleases") -> Piece:
            await called(local.app, "POST", path, json.dumps(body).encode(), take)
            return last

        done = self._run(work)
        if "error" in done:
            raise told_error(done)
        return done

    async def _ask(self, local: "LocalReleases", method: str, path: str, body: Piece | None = None) -> Any:
        content = await called(local.app, method, path, json.dumps(body).encode() if body is not None else b"")
        return json.loads(content) if content else None

    def _run(self, work: "Callable[[LocalReleases], Awaitable[_Result]]") -> _Result:
        import asyncio

        from deployment.clock import SystemClock
        from deployment.releases import local_releases
        from deployment.secret_store import looked_up
        from deployment.telemetry import configure_logging

        async def run() -> _Result:
            settings = looked_up(self._settings)
            configure_logging(settings.log.model_copy(update={"level": "error"}), readable=True)
            async with local_releases(settings, SystemClock(), nodes=self._nodes) as local:
                return await work(local)

        return asyncio.run(run())

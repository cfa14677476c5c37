"""The one client of Ollama's HTTP API: answers as events, every fault as an `EngineError`."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self, TypedDict, Unpack, overload

from yarl import URL

from deployment import modelfile as modelfiles
from deployment.errors import ConfigurationError, EngineError, EngineProtocolError, ModelMissing
from deployment.modelfile import Modelfile
from deployment.ollama_connection import Connection, Events, Timeouts, encode
from deployment.ollama_wire import Delta, Done, Event, Gathered, Generation, Take, collect, error_of, give, object_of

__all__ = [
    "Delta",
    "Done",
    "Event",
    "Events",
    "Gathered",
    "Generation",
    "OllamaClient",
    "Take",
    "Timeouts",
    "collect",
    "give",
]

_REWRITE_BYTES_PER_S = 20e6
"""A node may write the weights anew while it creates, without a sign of life."""


class _Fields(TypedDict, total=False):
    model: str | None
    options: Mapping[str, Any] | None
    format: str | Mapping[str, Any] | None
    keep_alive: str | float | None
    think: bool | str | None
    truncate: bool | None
    shift: bool | None
    logprobs: bool | None
    top_logprobs: int | None


class GenerateFields(_Fields, total=False):
    """What `generate` takes beside the prompt, as in POST /api/generate. None means: not sent."""

    system: str | None
    template: str | None
    suffix: str | None
    raw: bool | None
    images: Sequence[str] | None
    context: Sequence[int] | None


class ChatFields(_Fields, total=False):
    """What `chat` takes beside the messages, as in POST /api/chat. None means: not sent."""

    tools: Sequence[Mapping[str, Any]] | None


class OllamaClient:
    """A node that speaks Ollama's API, at `host`; `model` is the one asked where a call names none.

    Nothing is opened until the first call. Close with `close()` or use as an async context manager.
    Every failure is an EngineError of `deployment.errors`.
    """

    def __init__(
        self,
        host: str = "http://localhost:11434",
        model: str = "ramsey-model",
        *,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 - frozen
    ) -> None:
        self.host = (host if "://" in host else f"http://{host}").rstrip("/")
        self.model = model
        try:
            usable = URL(self.host).scheme in {"http", "https"} and bool(URL(self.host).host)
        except ValueError:
            usable = False
        if not usable:
            raise ConfigurationError(f"{host!r} is no address of an engine.", hint="Write http://HOST:PORT.")
        self._connection = Connection(self.host, timeouts)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close our connections, those in use too. The next call opens new ones."""
        await self._connection.close()

    # --- inference ---------------------------------------------------------------------------------------

    @overload
    async def generate(
        self, prompt: str, stream: Literal[False] = False, **fields: Unpack[GenerateFields]
    ) -> Generation: ...
    @overload
    async def generate(
        self, prompt: str, stream: Literal[True], **fields: Unpack[GenerateFields]
    ) -> AsyncIterator[Event]: ...
    async def generate(
        self, prompt: str, stream: bool = False, **fields: Unpack[GenerateFields]
    ) -> Generation | AsyncIterator[Event]:
        """Answer a prompt: whole, or with `stream` as an iterator of events."""
        events = self.events("/api/generate", self._body({"prompt": prompt, "stream": stream}, fields))
        return events if stream else await collect(events)

    @overload
    async def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        stream: Literal[False] = False,
        **fields: Unpack[ChatFields],
    ) -> Generation: ...
    @overload
    async def chat(
        self, messages: Sequence[Mapping[str, Any]], stream: Literal[True], **fields: Unpack[ChatFields]
    ) -> AsyncIterator[Event]: ...
    async def chat(
        self, messages: Sequence[Mapping[str, Any]], stream: bool = False, **fields: Unpack[ChatFields]
    ) -> Generation | AsyncIterator[Event]:
        """Answer a conversation (`{"role", "content"}` each): whole, or with `stream` as events."""
        body = self._body({"messages": list(messages), "stream": stream}, fields)
        events = self.events("/api/chat", body)
        return events if stream else await collect(events)

    async def embed(
        self,
        inputs: str | Sequence[str],
        *,
        model: str | None = None,
        truncate: bool | None = None,
        dimensions: int | None = None,
        options: Mapping[str, Any] | None = None,
        keep_alive: str | float | None = None,
    ) -> dict[str, Any]:
        """Vectors for texts: `{"embeddings": [[float]], "prompt_eval_count", …}`, L2-normalised."""
        fields = {"truncate": truncate, "dimensions": dimensions, "options": options}
        body = self._body({"input": inputs}, {"model": model, "keep_alive": keep_alive, **fields})
        answer = await self.request("POST", "/api/embed", body)
        if not isinstance(answer.get("embeddings"), list):
            raise EngineProtocolError("The engine's answer holds no embeddings.")
        return answer

    async def load(
        self,
        name: str | None = None,
        keep_alive: str | float | None = None,
        *,
        options: Mapping[str, Any] | None = None,
    ) -> Done:
        """Load a model and wait for it. Load-time options that differ from later requests' reload it."""
        fields = {"model": name, "keep_alive": keep_alive, "options": options}
        return (await collect(self.events("/api/generate", self._body({"stream": False}, fields)))).done

    async def unload(self, name: str | None = None) -> None:
        """Ask to unload a model when its requests are done; does not wait for it."""
        await self.load(name, 0)

    def events(self, path: str, body: Mapping[str, Any], *, timeouts: Timeouts | None = None) -> Events:
        """Low level: POST `body` as it stands to /api/generate or /api/chat; deltas, then exactly one Done.

        With `"stream": false` the one object comes as a delta and its Done. `aclose()` aborts the
        connection. The consumer's own time counts towards no time-out but the total one.
        """
        return self._connection.events(path, body, timeouts)

    # --- models ------------------------------------------------------------------------------------------

    async def version(self) -> str:
        """The node's Ollama version."""
        return str((await self.request("GET", "/api/version")).get("version", ""))

    async def tags(self) -> list[dict[str, Any]]:
        """The models that the node holds; `digest` identifies one across nodes."""
        return _models(await self.request("GET", "/api/tags"))

    async def ps(self) -> list[dict[str, Any]]:
        """The models that are fully loaded."""
        return _models(await self.request("GET", "/api/ps"))

    async def show(self, name: str | None = None, *, verbose: bool = False) -> dict[str, Any]:
        """Everything about a model; `verbose` with its vocabulary, some megabytes. Raises ModelMissing."""
        return await self.request("POST", "/api/show", {"model": name or self.model, "verbose": verbose})

    async def copy(self, source: str, destination: str) -> None:
        """Give a model a second name."""
        await self.request("POST", "/api/copy", {"source": source, "destination": destination})

    async def delete(self, name: str) -> None:
        """Remove a name, and the blobs that no other uses. Does not unload it."""
        await self.request("DELETE", "/api/delete", {"model": name})

    async def has_blob(self, digest: str) -> bool:
        """Whether the node holds a blob; `digest` is `sha256:` and 64 hex digits."""
        status, body = await self._connection.call("HEAD", f"/api/blobs/{digest}")
        if status not in {200, 404}:
            raise self._connection.noted(error_of(status, body))
        return status == 200

    async def upload_blob(self, path: Path, *, silence_s: float = 60.0) -> str:
        """Upload a file unless the node has it; returns its digest. It may not stand still for `silence_s` seconds."""
        digest = await asyncio.to_thread(_sha256, path)
        if not await self.has_blob(digest):
            with await asyncio.to_thread(path.open, "rb") as file:
                await self.request("POST", f"/api/blobs/{digest}", file, silence_s=silence_s)
        return digest

    async def create(
        self,
        name: str,
        modelfile: Modelfile | Path,
        *,
        silence_s: float = 60.0,
        progress: Callable[[str], None] = lambda _: None,
        known: Mapping[str, str] | None = None,
    ) -> str:
        """Create model `name` from a Modelfile (one from `modelfile.load`, or its path); the tag's digest.

        `known` are the digests of files that the node has already, by path. Uploads what the node lacks, creates,
        then looks that the model is there. As long as the node tells of a next step it may take any time; a node
        that is silent for `silence_s` seconds, and what writing the weights anew takes, hangs.
        """
        if isinstance(modelfile, Path):
            modelfile = modelfiles.load(modelfile)
        files = [modelfile.from_path] if modelfile.from_path else []
        if any(path.is_dir() for path in files):
            raise ConfigurationError(f"{modelfile.from_} is a folder.", hint="Convert it to one GGUF.")
        digests = dict(known or {})
        for path in [*files, *map(Path, modelfile.adapters)]:
            if str(path) in digests:
                continue
            progress(f"uploading {path.name}")
            digests[str(path)] = await self.upload_blob(path, silence_s=silence_s)
        progress(f"creating {name}")
        body = _create_body(name, modelfile, digests)
        silence_s += await asyncio.to_thread(_size, files) / _REWRITE_BYTES_PER_S
        await self._create(body, silence_s)
        wanted = (name if ":" in name.rpartition("/")[2] else f"{name}:latest").lower()
        for model in await self.tags():
            if str(model.get("name")).lower() == wanted:
                return str(model.get("digest"))
        raise self._connection.noted(ModelMissing(f"The engine created {name}, yet does not list it."))

    async def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | BinaryIO | None = None,
        *,
        timeout_s: float | None = None,
        silence_s: float | None = None,
    ) -> dict[str, Any]:
        """Any call that answers with one JSON object, or with nothing (`{}`); by default within `total`.

        With `silence_s` as long as a body that is a file, or the answer, moves.
        """
        data = encode(body) if isinstance(body, Mapping) else body
        status, answer = await self._connection.call(method, path, data, timeout_s, silence_s)
        try:
            if status >= 300:
                raise error_of(status, answer)
            return object_of(answer) if answer.strip() else {}
        except EngineError as error:
            raise self._connection.noted(error) from None

    async def _create(self, body: Mapping[str, Any], silence_s: float) -> None:
        status, answer = await self._connection.call("POST", "/api/create", encode(body), silence=silence_s)
        last = answer.strip().rpartition(b"\n")[2]
        try:
            if status >= 300:
                raise error_of(status, answer)
            if object_of(last).get("status") != "success":
                raise EngineProtocolError("The engine stopped before the model was made.")
        except EngineError as error:
            raise self._connection.noted(error) from None

    def _body(self, body: dict[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        body["model"] = self.model
        body.update((key, value) for key, value in fields.items() if value is not None)
        return body


def _models(answer: dict[str, Any]) -> list[dict[str, Any]]:
    models = answer.get("models")
    if not isinstance(models, list):
        raise EngineProtocolError("The engine's answer holds no list of models.")
    return models


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _size(files: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in files if path.is_file())


def _create_body(name: str, modelfile: Modelfile, digests: Mapping[str, str]) -> dict[str, Any]:
    """The body of /api/create; `digests` are the uploaded files by path."""
    body: dict[str, Any] = {"model": name, "stream": True}
    if path := modelfile.from_path:
        body["files"] = {path.name: digests[str(path)]}
    else:
        body["from"] = modelfile.from_
    if modelfile.adapters:
        body["adapters"] = {Path(adapter).name: digests[adapter] for adapter in modelfile.adapters}
    for key in ("template", "system", "parameters", "renderer", "parser", "requires"):
        if value := getattr(modelfile, key):
            body[key] = value
    if modelfile.messages:
        body["messages"] = [message._asdict() for message in modelfile.messages]
    if modelfile.license:
        body["license"] = list(modelfile.license)
    return body

"""The node's HTTP endpoints: Ollama's paths, statuses and texts."""

import asyncio
import hashlib
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from deployment import __version__
from deployment.clock import Clock
from deployment.embedded.answers import Answer, Encoder, Lines, error_response, json_response
from deployment.embedded.bodies import Chat, Copy, Create, Embed, Embeddings, Generate, Named, Show, read_body
from deployment.embedded.create import Creator
from deployment.embedded.inference import Inference
from deployment.embedded.models import Model, Models, details
from deployment.embedded.names import parse_name
from deployment.embedded.options import parse_keep_alive
from deployment.embedded.runners import Runners
from deployment.embedded.show import show
from deployment.embedded.store import Manifest, Store, parse_digest
from deployment.errors import InvalidRequest, ModelNotFound, RamseyError
from deployment.gguf import GgufHeader

log = logging.getLogger(__name__)

# The version of Ollama whose API this follows; clients and gateways compare it.
API_VERSION = "0.33.0"
_UPLOAD_STEP = 1 << 20

Handler = Callable[[Request], Awaitable[Response]]


class Routes:
    """The endpoints, over the rooms' parts."""

    def __init__(self, store: Store, models: Models, runners: Runners, inference: Inference, clock: Clock) -> None:
        self._store = store
        self._models = models
        self._runners = runners
        self._inference = inference
        self._clock = clock
        self._writing = asyncio.Lock()
        self._creator = Creator(store, models, self._writing)

    def all(self) -> list[Route]:
        """For Starlette."""
        return [
            Route("/", self.root),
            Route("/api/version", self.version),
            Route("/api/tags", self.tags),
            Route("/api/ps", self.ps),
            Route("/api/show", self.show, methods=["POST"]),
            Route("/api/generate", self.generate, methods=["POST"]),
            Route("/api/chat", self.chat, methods=["POST"]),
            Route("/api/embed", self.embed, methods=["POST"]),
            Route("/api/embeddings", self.embeddings, methods=["POST"]),
            Route("/api/create", self.create, methods=["POST"]),
            Route("/api/blobs/{digest}", self.blob_head, methods=["HEAD"]),
            Route("/api/blobs/{digest}", self.blob_upload, methods=["POST"]),
            Route("/api/copy", self.copy, methods=["POST"]),
            Route("/api/delete", self.delete, methods=["DELETE"]),
        ]

    async def root(self, _: Request) -> Response:
        """Alive."""
        return PlainTextResponse("Ollama is running")

    async def version(self, _: Request) -> Response:
        """Which API this is; `ramsey` tells this engine from an Ollama."""
        return json_response({"version": API_VERSION, "ramsey": __version__})

    # --- inference ---

    async def generate(self, request: Request) -> Response:
        """`/api/generate`."""
        body = read_body(Generate, await request.body())
        if not body.model:
            raise ModelNotFound("model '' not found")
        return self._infer(body, only_load=not body.prompt)

    async def chat(self, request: Request) -> Response:
        """`/api/chat`."""
        body = read_body(Chat, await request.body())
        if not body.model:
            raise InvalidRequest("model is required")
        return self._infer(body, only_load=not body.messages)

    def _infer(self, body: Generate | Chat, *, only_load: bool) -> Response:
        chat = isinstance(body, Chat)
        keep_alive = parse_keep_alive(body.keep_alive)
        model = self._models.get(body.model, "chat" if chat else "generate")
        encoder = Encoder(body.model, self._clock, chat=chat)
        if only_load:
            return self._load(model, body, keep_alive, encoder)
        wanted, question = self._inference.prepare(model, body)

        def work() -> Lines:
            events = self._inference.events(wanted, question, keep_alive)
            return encoder.lines(events) if body.stream else encoder.whole(events)

        return Answer(work, stream=body.stream)

    def _load(self, model: Model, body: Generate | Chat, keep_alive: float | None, encoder: Encoder) -> Response:
        if keep_alive == 0:
            self._runners.expire(model.digest)
            return json_response(encoder.bare("unload"))
        wanted, _ = self._inference.wanted(model, body.options, shift=body.shift)

        async def work() -> Lines:
            await self._runners.load(wanted, keep_alive)
            yield encoder.bare("load")

        return Answer(work, stream=False)

    async def embed(self, request: Request) -> Response:
        """`/api/embed`."""
        began = self._clock.monotonic()
        body = read_body(Embed, await request.body())
        keep_alive = parse_keep_alive(body.keep_alive)
        inputs = [body.input] if isinstance(body.input, str) else body.input or []
        if not isinstance(inputs, list) or not all(isinstance(each, str) for each in inputs):
            raise InvalidRequest("invalid input type")
        model = self._models.get(body.model, "embed")
        inputs = [text for text in inputs if text]

        async def work() -> Lines:
            answer: dict[str, Any] = {"model": body.model, "embeddings": []}
            if not inputs:
                wanted, _ = self._inference.wanted(model, body.options)
                await self._runners.load(wanted, keep_alive)
                yield answer
                return
            vectors, tokens, load_ns = await self._inference.embed(model, body, inputs, keep_alive)
            answer["embeddings"] = [cut(vector, body.dimensions) for vector in vectors]
            answer["total_duration"] = int((self._clock.monotonic() - began) * 1e9)
            yield answer | {"load_duration": load_ns, "prompt_eval_count": tokens}

        return Answer(work, stream=False)

    async def embeddings(self, request: Request) -> Response:
        """`/api/embeddings`."""
        body = read_body(Embeddings, await request.body())
        keep_alive = parse_keep_alive(body.keep_alive)
        model = self._models.get(body.model, "embed")

        async def work() -> Lines:
            if not body.prompt:
                wanted, _ = self._inference.wanted(model, body.options)
                await self._runners.load(wanted, keep_alive)
                yield {"embedding": []}
                return
            vectors, _, _ = await self._inference.embed(model, body, [body.prompt], keep_alive)
            yield {"embedding": vectors[0]}

        return Answer(work, stream=False)

    # --- listing ---

    async def tags(self, _: Request) -> Response:
        """`/api/tags`, the newest first."""
        manifests = sorted(self._store.all(), key=lambda each: each.modified_at, reverse=True)
        return json_response({"models": [self._listed(each) for each in manifests]})

    async def ps(self, _: Request) -> Response:
        """`/api/ps`."""
        rows = []
        for runner in self._runners.loaded:
            wanted = runner.wanted
            header = self._models.header(wanted.key.digest)
            manifest = self._store.find(parse_name(wanted.name))
            row = self._listed(manifest) if manifest else {"name": wanted.name, "model": wanted.name}
            row.pop("modified_at", None)
            row |= {
                "size": loaded_size(header, wanted.key.options.context * self._runners.slots),
                "size_vram": 0,
                "expires_at": self._runners.expiry(runner).isoformat().replace("+00:00", "Z"),
                "context_length": wanted.key.options.context,
            }
            rows.append(row)
        return json_response({"models": rows})

    async def show(self, request: Request) -> Response:
        """`/api/show`."""
        body = read_body(Show, await request.body())
        if not body.target:
            raise InvalidRequest("model is required")
        model = self._models.get(body.target, "show")
        answer = await asyncio.to_thread(show, model, self._config(model.manifest), verbose=body.verbose)
        return json_response(answer)

    def _listed(self, manifest: Manifest) -> dict[str, Any]:
        return {
            "name": str(manifest.name),
            "model": str(manifest.name),
            "modified_at": manifest.modified_at.isoformat().replace("+00:00", "Z"),
            "size": manifest.size,
            "digest": manifest.digest,
            "details": details(manifest, self._config(manifest)),
        }

    def _config(self, manifest: Manifest) -> dict[str, Any]:
        try:
            config = orjson.loads(self._store.read_blob(manifest.config) or b"{}")
        except ValueError:
            return {}
        return config if isinstance(config, dict) else {}

    # --- changing ---

    async def create(self, request: Request) -> Response:
        """`/api/create`."""
        body = read_body(Create, await request.body())
        return Answer(lambda: self._creator.create(body), stream=body.stream)

    async def copy(self, request: Request) -> Response:
        """`/api/copy`."""
        body = read_body(Copy, await request.body())
        destination = parse_name(body.destination)
        async with self._writing:
            await asyncio.to_thread(self._store.copy, self._models.find(body.source), destination)
        return Response()

    async def delete(self, request: Request) -> Response:
        """`/api/delete`. A loaded runner stays until its keep-alive is over."""
        body = read_body(Named, await request.body())
        async with self._writing:
            await asyncio.to_thread(self._store.delete, self._models.find(body.target))
        return Response()

    async def blob_head(self, request: Request) -> Response:
        """Whether a blob is here."""
        digest = parse_digest(request.path_params["digest"])
        return Response(status_code=200 if self._store.has_blob(digest) else 404)

    async def blob_upload(self, request: Request) -> Response:
        """Take a blob: to disk as it comes, kept when its digest is right."""
        digest = parse_digest(request.path_params["digest"])
        if self._store.has_blob(digest):
            return Response(status_code=200)
        checksum = hashlib.sha256()
        with self._store.scratch_file() as (file, path):
            waiting = bytearray()

            def write(content: bytes) -> None:
                checksum.update(content)
                file.write(content)

            async for chunk in request.stream():
                waiting += chunk
                if len(waiting) >= _UPLOAD_STEP:
                    await asyncio.to_thread(write, bytes(waiting))
                    waiting.clear()
            await asyncio.to_thread(write, bytes(waiting))
            found = f"sha256:{checksum.hexdigest()}"
            if found != digest:
                raise InvalidRequest(f'digest mismatch, expected "{digest}", got "{found}"')
            await asyncio.to_thread(self._store.keep, file, path, digest)
        return Response(status_code=201)


def cut(vector: list[float], dimensions: int) -> list[float]:
    """The first dimensions (0 = all), brought to length 1 again."""
    if not 0 < dimensions < len(vector):
        return vector
    short = vector[:dimensions]
    length = math.sqrt(math.fsum(value * value for value in short))
    return [value / length for value in short] if length else short


def loaded_size(header: GgufHeader, tokens: int) -> int:
    """Bytes of the weights and of the keys and values of `tokens` tokens, as 16-bit numbers."""
    architecture, metadata = header.architecture, header.metadata

    def number(key: str) -> int:
        value = metadata.get(f"{architecture}.{key}")
        return value if isinstance(value, int) else 0

    heads = number("attention.head_count") or 1
    width = number("embedding_length") // heads * (number("attention.head_count_kv") or heads)
    return header.size + 2 * 2 * number("block_count") * width * tokens


async def on_error(_: Request, error: Exception) -> Response:
    """Our own errors, in Ollama's shape."""
    return error_response(error)


async def on_http_error(_: Request, error: Exception) -> Response:
    """The router's: plain text, as Ollama answers."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    texts = {404: "404 page not found", 405: "405 method not allowed"}
    return PlainTextResponse(texts.get(status, "error"), status)


async def on_disconnect(_: Request, __: Exception) -> Response:
    """The caller left while sending its body: nobody reads this."""
    return Response(status_code=499)


HANDLERS: dict[Any, Any] = {
    RamseyError: on_error,
    HTTPException: on_http_error,
    ClientDisconnect: on_disconnect,
}

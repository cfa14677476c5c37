"""The gateway's HTTP endpoints, thin: authenticate, read within bounds, understand, answer."""

import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import orjson
from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from deployment.access import Permission, Principal, needs
from deployment.errors import Forbidden, InvalidRequest, ModelNotFound
from deployment.gateway.body import parse, read_body
from deployment.gateway.dialects import native, ollama, openai_chat, openai_responses, openai_text
from deployment.gateway.direct import DirectRoute
from deployment.gateway.encoder import Reply
from deployment.gateway.errors_out import NATIVE, OLLAMA, OPENAI
from deployment.gateway.openapi import describe
from deployment.gateway.service import Gateway

Body = TypeVar("Body", bound=BaseModel)
Handler = Callable[[Request, Principal, Body], Awaitable[Response]]

# What Ollama offers to whoever reaches it, and Ramsey to nobody through this door.
MANAGEMENT = (
    ("POST", "/api/create"),
    ("POST", "/api/copy"),
    ("DELETE", "/api/delete"),
    ("POST", "/api/pull"),
    ("POST", "/api/push"),
    ("POST", "/api/blobs/{digest}"),
    ("HEAD", "/api/blobs/{digest}"),
    ("POST", "/api/me"),
    ("POST", "/api/signout"),
)


_NODES_PATH = re.compile(r"^(\s*(?:FROM|ADAPTER)\s+)(?:/|[A-Z]:\\).*[/\\]([^/\\\s]+)", re.MULTILINE | re.IGNORECASE)

BODIES: tuple[type[BaseModel], ...] = (
    native.GenerateRequest,
    native.ChatRequest,
    native.EmbeddingsRequest,
    ollama.OllamaGenerate,
    ollama.OllamaChat,
    ollama.OllamaEmbed,
    ollama.OllamaEmbeddings,
    ollama.OllamaShow,
    openai_chat.ChatCompletionRequest,
    openai_text.CompletionRequest,
    openai_text.EmbeddingRequest,
    openai_responses.ResponsesRequest,
)


class Json(Response):
    """A JSON answer, written by orjson."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Bytes are taken for JSON already."""
        return content if isinstance(content, bytes) else orjson.dumps(content)


def _post(
    router: APIRouter,
    gateway: Gateway,
    permission: Permission,
    path: str,
    schema: type[Body],
    handle: Handler[Body],
    summary: str,
) -> None:
    """An inference endpoint. FastAPI's own parsing is passed by: it costs more than the rest of the gateway."""
    server = gateway.settings.server

    async def endpoint(request: Request) -> Response:
        principal = gateway.caller(request, permission)
        body = await read_body(request, server.max_body_bytes, server.slow_client_seconds)
        return await handle(request, principal, parse(schema, body))

    router.add_api_route(
        path,
        endpoint,
        methods=["POST"],
        summary=summary,
        response_class=Json,
        route_class_override=DirectRoute,
        **describe(router.prefix + path, schema, permission),
    )


def native_routes(gateway: Gateway) -> APIRouter:
    """Ramsey's own API."""
    router = APIRouter(tags=["Ramsey"])

    async def generate(request: Request, principal: Principal, body: native.GenerateRequest) -> Response:
        return await gateway.serve(
            request, principal, body.inference(), lambda reply: native.NativeEncoder(reply, chat=False), NATIVE
        )

    async def chat(request: Request, principal: Principal, body: native.ChatRequest) -> Response:
        return await gateway.serve(
            request, principal, body.inference(), lambda reply: native.NativeEncoder(reply, chat=True), NATIVE
        )

    async def embeddings(request: Request, principal: Principal, body: native.EmbeddingsRequest) -> Response:
        ask = {"input": body.input, "truncate": False}
        return await gateway.ask(request, principal, body.model, "/api/embed", ask, native.embeddings_body, NATIVE)

    _post(router, gateway, Permission.INFERENCE, "/generate", native.GenerateRequest, generate, "Answer a prompt")
    _post(router, gateway, Permission.INFERENCE, "/chat", native.ChatRequest, chat, "Continue a conversation")
    _post(router, gateway, Permission.EMBEDDINGS, "/embeddings", native.EmbeddingsRequest, embeddings, "Embed texts")

    @router.get("/models", summary="Models and their releases", response_class=Json, **needs(Permission.MODELS_READ))
    async def models(request: Request) -> Response:
        """Each served model with the release that answers for it, and the releases that can be asked for by name."""
        principal = gateway.caller(request, Permission.MODELS_READ)
        table, there = gateway.table(principal), await gateway.models(principal)
        listed = [
            {
                "model": model,
                "release": release,
                "traffic": gateway.weights(model),
                "releases": sorted(e["name"] for e in there if _is_release_of(e["name"], model)),
                "digest": next((e.get("digest") for e in there if e["name"] == release), None),
            }
            for model, release in table.items()
        ]
        return Json({"models": listed, "default": gateway.settings.model.name})

    return router


def _is_release_of(name: str, model: str) -> bool:
    return name.startswith(f"{model}:") and name != f"{model}:latest"


def ollama_routes(gateway: Gateway) -> APIRouter:
    """Ollama's API for clients."""
    router = APIRouter(tags=["Ollama"])

    async def generate(request: Request, principal: Principal, body: ollama.OllamaGenerate) -> Response:
        return await gateway.serve(request, principal, body.inference(), ollama.OllamaEncoder, OLLAMA)

    async def chat(request: Request, principal: Principal, body: ollama.OllamaChat) -> Response:
        return await gateway.serve(request, principal, body.inference(), ollama.OllamaEncoder, OLLAMA)

    def renamed(result: dict[str, Any], reply: Reply) -> bytes:
        return orjson.dumps(result | {"model": reply.model} if "model" in result else result)

    async def embed(request: Request, principal: Principal, body: ollama.OllamaEmbed) -> Response:
        ask = body.model_dump(exclude_none=True, exclude={"model", "keep_alive", "options"})
        return await gateway.ask(request, principal, body.model, "/api/embed", ask, renamed, OLLAMA)

    async def embeddings(request: Request, principal: Principal, body: ollama.OllamaEmbeddings) -> Response:
        return await gateway.ask(
            request, principal, body.model, "/api/embeddings", {"prompt": body.prompt}, renamed, OLLAMA
        )

    async def show(request: Request, principal: Principal, body: ollama.OllamaShow) -> Response:
        if not (name := body.model or body.name):
            raise InvalidRequest("model: is required.")
        return await gateway.ask(request, principal, name, "/api/show", {"verbose": bool(body.verbose)}, _shown, OLLAMA)

    _post(
        router,
        gateway,
        Permission.INFERENCE,
        "/api/generate",
        ollama.OllamaGenerate,
        generate,
        "Answer a prompt, as Ollama does",
    )
    _post(
        router,
        gateway,
        Permission.INFERENCE,
        "/api/chat",
        ollama.OllamaChat,
        chat,
        "Continue a conversation, as Ollama does",
    )
    _post(
        router, gateway, Permission.EMBEDDINGS, "/api/embed", ollama.OllamaEmbed, embed, "Embed texts, as Ollama does"
    )
    _post(
        router,
        gateway,
        Permission.EMBEDDINGS,
        "/api/embeddings",
        ollama.OllamaEmbeddings,
        embeddings,
        "Embed a text, the old way",
    )
    _post(router, gateway, Permission.MODELS_READ, "/api/show", ollama.OllamaShow, show, "Details of a model")
    _ollama_lists(router, gateway)
    return router


def _shown(result: dict[str, Any], _reply: Reply) -> bytes:
    """A node's details of a model, without where the node keeps its files."""
    if isinstance(text := result.get("modelfile"), str):
        result = result | {"modelfile": _NODES_PATH.sub(r"\1\2", text)}
    return orjson.dumps(result)


def _ollama_lists(router: APIRouter, gateway: Gateway) -> None:
    @router.get(
        "/api/tags", summary="Models, as Ollama lists them", response_class=Json, **needs(Permission.MODELS_READ)
    )
    async def tags(request: Request) -> Response:
        """Each model under its own name (`:latest`), and its releases."""
        principal = gateway.caller(request, Permission.MODELS_READ)
        return Json({"models": await gateway.models(principal)})

    @router.get(
        "/api/ps", summary="Loaded models, as Ollama lists them", response_class=Json, **needs(Permission.MODELS_READ)
    )
    async def ps(request: Request) -> Response:
        """What the nodes hold in memory, releases of served models only."""
        table = gateway.table(gateway.caller(request, Permission.MODELS_READ))
        loaded = [entry for entry in await gateway.pool.ps() if entry["name"].partition(":")[0] in table]
        return Json({"models": loaded})

    @router.get("/api/version", summary="The engine's version", response_class=Json, **needs(Permission.MODELS_READ))
    async def version(request: Request) -> Response:
        """The lowest version among the nodes: what a client may count on."""
        gateway.caller(request, Permission.MODELS_READ)
        versions = [node.version for node in gateway.pool.view() if node.version]
        return Json({"version": min(versions, key=_version_key, default="0.0.0")})

    async def refuse(request: Request) -> Response:
        gateway.caller(request, Permission.MODELS_READ)
        raise Forbidden(
            f"{request.url.path} is not offered: Ramsey manages the models of its nodes.",
            hint="`ramsey up` deploys models/ollama/Modelfile.",
        )

    for method, path in MANAGEMENT:
        router.add_api_route(path, refuse, methods=[method], include_in_schema=False, **needs(Permission.MODELS_READ))


def _version_key(version: str) -> tuple[int, ...]:
    parts = version.partition("-")[0].split(".")
    return tuple(int(part) if part.isdecimal() and len(part) < 10 else 0 for part in parts)


def openai_routes(gateway: Gateway) -> APIRouter:
    """OpenAI's API."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"])

    async def chat(request: Request, principal: Principal, body: openai_chat.ChatCompletionRequest) -> Response:
        usage = body.include_usage
        return await gateway.serve(
            request,
            principal,
            body.inference(),
            lambda reply: openai_chat.ChatEncoder(reply, include_usage=usage),
            OPENAI,
        )

    async def completions(request: Request, principal: Principal, body: openai_text.CompletionRequest) -> Response:
        usage = body.include_usage
        return await gateway.serve(
            request,
            principal,
            body.inference(),
            lambda reply: openai_text.CompletionEncoder(reply, include_usage=usage),
            OPENAI,
        )

    async def responses(request: Request, principal: Principal, body: openai_responses.ResponsesRequest) -> Response:
        return await gateway.serve(
            request, principal, body.inference(), lambda reply: openai_responses.ResponsesEncoder(reply, body), OPENAI
        )

    async def embeddings(request: Request, principal: Principal, body: openai_text.EmbeddingRequest) -> Response:
        ask: dict[str, Any] = {"input": body.input, "truncate": False}
        if body.dimensions:
            ask["dimensions"] = body.dimensions
        encoding = body.encoding_format
        return await gateway.ask(
            request,
            principal,
            body.model,
            "/api/embed",
            ask,
            lambda result, reply: openai_text.embeddings_body(result, reply, encoding),
            OPENAI,
        )

    _post(
        router,
        gateway,
        Permission.INFERENCE,
        "/chat/completions",
        openai_chat.ChatCompletionRequest,
        chat,
        "Chat completion",
    )
    _post(
        router,
        gateway,
        Permission.INFERENCE,
        "/completions",
        openai_text.CompletionRequest,
        completions,
        "Text completion",
    )
    _post(
        router,
        gateway,
        Permission.INFERENCE,
        "/responses",
        openai_responses.ResponsesRequest,
        responses,
        "Response, stateless",
    )
    _post(router, gateway, Permission.EMBEDDINGS, "/embeddings", openai_text.EmbeddingRequest, embeddings, "Embeddings")
    _openai_models(router, gateway)
    return router


def _openai_models(router: APIRouter, gateway: Gateway) -> None:
    async def listed(request: Request) -> dict[str, dict[str, Any]]:
        entries = await gateway.models(gateway.caller(request, Permission.MODELS_READ))
        names = {entry["name"].removesuffix(":latest"): str(entry.get("modified_at", "")) for entry in entries}
        return {name: openai_text.model_entry(name, modified_at) for name, modified_at in names.items()}

    @router.get("/models", summary="List models", response_class=Json, **needs(Permission.MODELS_READ))
    async def models(request: Request) -> Response:
        """Each model under its own name, and its releases."""
        return Json({"object": "list", "data": list((await listed(request)).values())})

    @router.get(
        "/models/{model:path}", summary="Retrieve a model", response_class=Json, **needs(Permission.MODELS_READ)
    )
    async def model(request: Request, model: str) -> Response:
        """One model. 404 where it is not served."""
        if (entry := (await listed(request)).get(model)) is None:
            raise ModelNotFound(f'The model "{model[:80]}" is not served here.')
        return Json(entry)

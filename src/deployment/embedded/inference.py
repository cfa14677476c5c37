"""A request's way through a runner: options, slot, question, events."""

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from deployment.embedded.bodies import Chat, Embed, Embeddings, Generate
from deployment.embedded.child import NotReached, Refused
from deployment.embedded.loaded import Key, Wanted
from deployment.embedded.models import Model, template_differs
from deployment.embedded.options import LoadOptions, load_options, merge, sampling
from deployment.embedded.prompts import (
    chat_messages,
    chat_request,
    check,
    droppable,
    generate_messages,
    raw_request,
    without,
)
from deployment.embedded.runners import Lease, Runners
from deployment.embedded.translate import ChatReader, CompletionReader, Event, Started, read_events
from deployment.errors import EngineCrashed, InvalidRequest

log = logging.getLogger(__name__)

# A request that never reached its runner goes to the next one, so often.
_TRIES = 3


@dataclass(frozen=True)
class Defaults:
    """What the node's options say where a request and its model say nothing."""

    context: int
    threads: int
    gpu_layers: int


@dataclass(frozen=True)
class Question:
    """What llama.cpp is asked. `messages` is what may be shortened when it is too long; None = nothing."""

    path: str
    body: dict[str, Any]
    reader: type[ChatReader] | type[CompletionReader]
    top_logprobs: int
    messages: list[dict[str, Any]] | None


class Inference:
    """Asks runners on behalf of the routes."""

    def __init__(self, runners: Runners, defaults: Defaults) -> None:
        self._runners = runners
        self._defaults = defaults
        self._warned: set[str] = set()

    def wanted(self, model: Model, options: Mapping[str, Any], *, shift: bool = True) -> tuple[Wanted, dict[str, Any]]:
        """The runner that a request needs, and its sampling fields for llama.cpp."""
        merged = merge(model.params, options)
        load = self._load_options(merged, model, shift)
        if model.name not in self._warned and template_differs(model.template, model.header.chat_template):
            self._warned.add(model.name)
            log.warning("%s: its TEMPLATE differs from the GGUF's chat template, which is used", model.name)
        return Wanted(Key(model.digest, load), model.blob, model.name), sampling(merged, load.context)

    def prepare(self, model: Model, body: Generate | Chat) -> tuple[Wanted, Question]:
        """Check a request, and say what it needs. Raises what Ollama would answer."""
        check(body, model)
        wanted, fields = self.wanted(model, body.options, shift=body.shift)
        top = body.top_logprobs
        if isinstance(body, Generate) and body.raw:
            return wanted, Question("/completion", raw_request(body, fields), CompletionReader, top, None)
        chat = isinstance(body, Chat)
        messages = chat_messages(body, model) if isinstance(body, Chat) else generate_messages(body, model)
        request = chat_request(messages, body, fields, model)
        shorten = messages if chat and body.truncate else None
        return wanted, Question("/v1/chat/completions", request, ChatReader, top, shorten)

    async def events(self, wanted: Wanted, question: Question, keep_alive: float | None) -> AsyncGenerator[Event, None]:
        """Started, the pieces, the end."""
        for attempt in range(1, _TRIES + 1):
            try:
                async with self._runners.lease(wanted, keep_alive) as lease:
                    yield Started(int(lease.load_s * 1e9))
                    async with aclosing(_ask(lease, question)) as events:
                        async for event in events:
                            yield event
                    return
            except NotReached:
                if attempt == _TRIES:
                    raise

    async def embed(
        self, model: Model, body: Embed | Embeddings, inputs: list[str], keep_alive: float | None
    ) -> tuple[list[list[float]], int, int]:
        """Vectors of length 1, tokens read, and nanoseconds of the load."""
        wanted, _ = self.wanted(model, body.options)
        truncate = body.truncate if isinstance(body, Embed) else True
        for attempt in range(1, _TRIES + 1):
            try:
                async with self._runners.lease(wanted, keep_alive) as lease:
                    vectors, tokens = [], 0
                    for text in inputs:
                        vector, count = await _embed(lease, text, wanted.key.options, truncate)
                        vectors.append(vector)
                        tokens += count
                    return vectors, tokens, int(lease.load_s * 1e9)
            except NotReached:
                if attempt == _TRIES:
                    raise
        raise AssertionError("unreachable")

    def _load_options(self, merged: Mapping[str, Any], model: Model, shift: bool) -> LoadOptions:
        return load_options(
            merged,
            trained=model.header.context_length,
            context=self._defaults.context,
            threads=self._defaults.threads,
            gpu_layers=self._defaults.gpu_layers,
            shift=shift,
        )


async def _ask(lease: Lease, question: Question) -> AsyncGenerator[Event, None]:
    """Ask; a conversation that is too long loses its oldest messages, as with Ollama."""
    body, messages = question.body, question.messages
    while True:
        try:
            async with lease.child.post(lease.client, question.path, body) as response:
                async with aclosing(read_events(response, question.reader(question.top_logprobs))) as events:
                    async for event in events:
                        yield event
                return
        except Refused as refused:
            if refused.details.get("type") != "exceed_context_size_error" or messages is None:
                raise
            if not (oldest := droppable(messages)):
                raise
            dropped = await _least_to_drop(lease, body, messages, oldest, refused.details.get("n_ctx", 0))
            messages = without(messages, oldest[:dropped])
            body = {**body, "messages": messages}


async def _least_to_drop(
    lease: Lease, body: dict[str, Any], messages: list[dict[str, Any]], oldest: list[int], context: int
) -> int:
    """How many of the oldest messages must go: found by halving, as each try reads the whole conversation."""

    async def fits(dropped: int) -> bool:
        shorter = {**body, "messages": without(messages, oldest[:dropped])}
        prompt = (await lease.child.ask(lease.client, "/apply-template", shorter))["prompt"]
        question = {"content": prompt, "add_special": True, "parse_special": True}
        return len((await lease.child.ask(lease.client, "/tokenize", question))["tokens"]) < context

    low, high = 1, len(oldest)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if await fits(middle) else (middle + 1, high)
    return low


async def _embed(lease: Lease, text: str, options: LoadOptions, truncate: bool) -> tuple[list[float], int]:
    limit = min(options.context, options.batch)
    content: str | list[int] = text
    # A token is a byte at least, so a short text needs no count.
    if len(text.encode()) >= limit:
        answer = await lease.child.ask(lease.client, "/tokenize", {"content": text, "add_special": True})
        tokens: list[int] = answer["tokens"]
        if len(tokens) > limit - 1:
            if not truncate:
                raise InvalidRequest("the input length exceeds the context length")
            content = tokens[: limit - 1]
    answer = await lease.child.ask(lease.client, "/v1/embeddings", {"input": content})
    try:
        return answer["data"][0]["embedding"], answer["usage"]["prompt_tokens"]
    except (KeyError, IndexError) as error:
        raise EngineCrashed("an error was encountered while running the model: it gave no vector") from error

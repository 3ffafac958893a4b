"""The handlers of /v1: decode, translate, generate, encode; several choices; model listings."""

from __future__ import annotations

import secrets
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from vllama_balancer.edge.body import encode_sse, json_response
from vllama_balancer.edge.embedding_reply import encode_vectors
from vllama_balancer.edge.openai import chat_reply, chat_request, completions, responses_request
from vllama_balancer.edge.openai.chat_request import ChatRequest
from vllama_balancer.edge.openai.completions import CompletionRequest
from vllama_balancer.edge.openai.embeddings import (
    EmbeddingsRequest,
    embedding_frame,
    encode_embedding,
    to_embed_request,
)
from vllama_balancer.edge.openai.errors import error_event
from vllama_balancer.edge.openai.reply_fields import ReplyIdentity
from vllama_balancer.edge.openai.responses_reply import ResponseStream, encode_event
from vllama_balancer.edge.openai.responses_request import ResponsesRequest
from vllama_balancer.edge.streaming import SSE
from vllama_balancer.edge.wire.accumulator import Accumulator
from vllama_balancer.edge.wire.capabilities import check_capabilities
from vllama_balancer.edge.wire.presets import apply_presets
from vllama_balancer.errors import EngineFault, InvalidRequest, ModelNotFound
from vllama_balancer.names import parse_name

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from aiohttp import web

    from vllama_balancer.edge.context import HandlerContext
    from vllama_balancer.edge.model_lookup import RequestedModel
    from vllama_balancer.edge.wire.accumulator import Event
    from vllama_balancer.gateway import ModelEntry
    from vllama_protos.v1 import generation_pb2

    Events = AsyncGenerator[Event, None]
    ChoiceEvents = AsyncGenerator[tuple[int, Event], None]
    Chunks = chat_reply.ChunkStream | completions.CompletionStream

_DONE = b"data: [DONE]\n\n"

MOST_CHOICES = 128
"""OpenAI's limit."""


class Handlers:
    """Handlers of /v1."""

    def __init__(self, context: HandlerContext) -> None:
        self._context = context

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions."""
        body = await self._context.read(request, ChatRequest)
        self._context.raise_if_full(body.model)
        generation = chat_request.to_generation(body)
        choices = choices_of(body.n)
        if not body.model:
            raise InvalidRequest("model is required", field="model")
        model = await self._context.find(request, body.model)
        events = self._generate_choices(request, model, generation, choices, "chat")
        identity = self._identity("chatcmpl-", model)
        logprobs = body.logprobs is True
        if body.stream:
            chunks = chat_reply.ChunkStream(identity, choices, logprobs=logprobs, include_usage=body.include_usage)
            return await self._stream(request, events, chunks)
        done = await _collect(events, choices)
        return json_response(chat_reply.to_completion(identity, done, logprobs=logprobs))

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/completions."""
        body = await self._context.read(request, CompletionRequest)
        self._context.raise_if_full(body.model)
        generation = completions.to_generation(body)
        choices = choices_of(body.n)
        if not body.model:
            raise ModelNotFound("model '' not found", field="model")
        model = await self._context.find(request, body.model)
        events = self._generate_choices(request, model, generation, choices, "generate")
        identity = self._identity("cmpl-", model)
        echo = completions.prompt_of(body) if body.echo else ""
        logprobs = body.logprobs is not None
        if body.stream:
            chunks = completions.CompletionStream(
                identity, choices, echo=echo, logprobs=logprobs, include_usage=body.include_usage
            )
            return await self._stream(request, events, chunks)
        done = await _collect(events, choices)
        return json_response(completions.to_completion(identity, done, echo=echo, logprobs=logprobs))

    async def respond(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/responses."""
        body = await self._context.read(request, ResponsesRequest)
        self._context.raise_if_full(body.model)
        generation = responses_request.to_generation(body)
        if not body.model:
            raise InvalidRequest("model is required", field="model")
        model = await self._context.find(request, body.model)
        _fit(model, generation, "chat")
        stream = self._context.generate(request, model, generation)
        identity = self._identity("resp_", model)
        response = ResponseStream(identity, body, now=self._now)
        if body.stream:
            return await self._context.stream(
                request, _encode_response(stream, response), content_type=SSE, render_error=response.failure
            )
        return json_response(await _complete_response(stream, response))

    async def embed(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/embeddings."""
        body = await self._context.read(request, EmbeddingsRequest)
        self._context.raise_if_full(body.model)
        embedding = to_embed_request(body)
        if not body.model:
            raise ModelNotFound("model '' not found", field="model")
        model = await self._context.find(request, body.model, not_found='model "{}" not found, try pulling it first')
        model.require("embedding")
        batches = self._context.embed(request, model, embedding)
        encode = partial(encode_embedding, as_base64=body.as_base64)
        pieces = encode_vectors(batches, encode, partial(embedding_frame, model.requested))
        return await self._context.send_vectors(request, pieces)

    async def models(self, request: web.Request) -> web.Response:
        """GET /v1/models."""
        return json_response(to_model_list(self._context.gateway.models()))

    async def model(self, request: web.Request) -> web.Response:
        """GET /v1/models/{model}."""
        found = await self._context.find(request, request.match_info["model"])
        return json_response(to_model(found.entry, found.requested))

    def _generate_choices(
        self,
        request: web.Request,
        model: RequestedModel,
        generation: generation_pb2.GenerateRequest,
        choices: int,
        verb: str,
    ) -> ChoiceEvents:
        _fit(model, generation, verb)
        return self._context.generate_choices(request, model, generation, choices, verb=verb)

    def _identity(self, prefix: str, model: RequestedModel) -> ReplyIdentity:
        return ReplyIdentity(prefix, secrets.token_hex(12), self._now(), model.requested)

    def _now(self) -> int:
        return int(self._context.now().timestamp())

    async def _stream(self, request: web.Request, events: ChoiceEvents, chunks: Chunks) -> web.StreamResponse:
        return await self._context.stream(request, _encode(events, chunks), content_type=SSE, render_error=error_event)


def _fit(model: RequestedModel, generation: generation_pb2.GenerateRequest, verb: str) -> None:
    check_capabilities(model, generation, verb=verb)
    apply_presets(model.entry.presets, generation)


async def _collect(events: ChoiceEvents, choices: int) -> list[Accumulator]:
    accumulators = [Accumulator() for _ in range(choices)]
    async with aclosing(events):
        async for choice, event in events:
            accumulators[choice].add(event)
    return accumulators


async def _encode(events: ChoiceEvents, chunks: Chunks) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        async for choice, event in events:
            for chunk in chunks.chunks(choice, event):
                yield encode_sse(chunk)
    for chunk in chunks.closing():
        yield encode_sse(chunk)
    yield _DONE


async def _encode_response(events: Events, response: ResponseStream) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        async for event in events:
            if translated := response.events(event):
                yield b"".join(encode_event(each) for each in translated)


async def _complete_response(events: Events, response: ResponseStream) -> dict[str, Any]:
    async with aclosing(events):
        async for event in events:
            response.events(event)
    if response.completed is None:
        raise EngineFault("the generation stopped without saying how it ended")
    return response.completed


def choices_of(n: int | None) -> int:
    """Returns the number of choices; None means one. Raises InvalidRequest outside 1 to 128."""
    count = 1 if n is None else n
    if not 1 <= count <= MOST_CHOICES:
        raise InvalidRequest(f"n must be between 1 and {MOST_CHOICES}", field="n")
    return count


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One model."""

    id: str
    object: str = "model"
    created: int
    owned_by: str


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """All models, in the catalog's order."""

    object: str = "list"
    data: list[Model]


def to_model(entry: ModelEntry, model_id: str) -> Model:
    """Returns a model under the id that the client used."""
    return Model(id=model_id, created=int(entry.modified_at.timestamp()), owned_by=parse_name(entry.name).namespace)


def to_model_list(entries: Iterable[ModelEntry]) -> ModelList:
    """Returns all models under their display names."""
    return ModelList(data=[to_model(entry, entry.name) for entry in entries])

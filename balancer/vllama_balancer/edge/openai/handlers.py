"""Handlers of /v1: decode, translate, generate, encode."""

from __future__ import annotations

import secrets
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from aiohttp import web

from vllama_balancer.edge.body import encode_json, encode_sse
from vllama_balancer.edge.openai import (
    chat_reply,
    chat_request,
    completion_reply,
    completion_request,
    responses_request,
)
from vllama_balancer.edge.openai.chat_request import ChatRequest
from vllama_balancer.edge.openai.choices import to_choices
from vllama_balancer.edge.openai.completion_request import CompletionRequest
from vllama_balancer.edge.openai.embeddings import EmbeddingsRequest, to_embed_request, to_embedding_list
from vllama_balancer.edge.openai.errors import error_event
from vllama_balancer.edge.openai.identity import Identity
from vllama_balancer.edge.openai.models import to_model, to_model_list
from vllama_balancer.edge.openai.responses_reply import ResponseStream, encode_event
from vllama_balancer.edge.openai.responses_request import ResponsesRequest
from vllama_balancer.edge.streaming import SSE
from vllama_balancer.edge.wire.accumulator import Accumulator
from vllama_balancer.edge.wire.capabilities import check_capabilities
from vllama_balancer.edge.wire.merge import merge
from vllama_balancer.edge.wire.presets import apply_presets
from vllama_balancer.errors import EngineFault, InvalidRequest, ModelNotFound

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from vllama_balancer.edge.context import HandlerContext
    from vllama_balancer.edge.model_lookup import RequestedModel
    from vllama_protos.v1 import generation_pb2

    Events = AsyncGenerator[generation_pb2.GenerateResponse, None]
    Chunks = chat_reply.ChunkStream | completion_reply.CompletionStream

_DONE = b"data: [DONE]\n\n"


class Handlers:
    """The endpoints that speak OpenAI's JSON, bound to an edge."""

    def __init__(self, context: HandlerContext) -> None:
        self._context = context

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions."""
        body = await self._context.read(request, ChatRequest)
        self._context.expect_room(body.model)
        generation = chat_request.to_generation(body)
        choices = to_choices(generation, body.n)
        if not body.model:
            raise InvalidRequest("model is required", field="model")
        model = await self._context.find(request, body.model)
        streams = self._generate(request, model, choices, "chat")
        identity = self._identity("chatcmpl-", model)
        logprobs = body.logprobs is True
        if body.stream:
            chunks = chat_reply.ChunkStream(identity, len(choices), logprobs=logprobs, include_usage=body.include_usage)
            return await self._stream(request, streams, chunks)
        return reply(chat_reply.to_completion(identity, await _collect(streams), logprobs=logprobs))

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/completions."""
        body = await self._context.read(request, CompletionRequest)
        self._context.expect_room(body.model)
        generation = completion_request.to_generation(body)
        choices = to_choices(generation, body.n)
        if not body.model:
            raise ModelNotFound("model '' not found", field="model")
        model = await self._context.find(request, body.model)
        streams = self._generate(request, model, choices, "generate")
        identity = self._identity("cmpl-", model)
        echo = completion_request.prompt_of(body) if body.echo else ""
        logprobs = body.logprobs is not None
        if body.stream:
            chunks = completion_reply.CompletionStream(
                identity, len(choices), echo=echo, logprobs=logprobs, include_usage=body.include_usage
            )
            return await self._stream(request, streams, chunks)
        collected = await _collect(streams)
        return reply(completion_reply.to_completion(identity, collected, echo=echo, logprobs=logprobs))

    async def respond(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/responses."""
        body = await self._context.read(request, ResponsesRequest)
        self._context.expect_room(body.model)
        generation = responses_request.to_generation(body)
        if not body.model:
            raise InvalidRequest("model is required", field="model")
        model = await self._context.find(request, body.model)
        [stream] = self._generate(request, model, [generation], "chat")
        identity = self._identity("resp_", model)
        response = ResponseStream(identity, body, now=self._now)
        if body.stream:
            return await self._context.stream(
                request, _encode_response(stream, response), content_type=SSE, render_error=response.failure
            )
        return reply(await _complete_response(stream, response))

    async def embed(self, request: web.Request) -> web.Response:
        """POST /v1/embeddings."""
        body = await self._context.read(request, EmbeddingsRequest)
        self._context.expect_room(body.model)
        wire = to_embed_request(body)
        if not body.model:
            raise ModelNotFound("model '' not found", field="model")
        model = await self._context.find(request, body.model, not_found='model "{}" not found, try pulling it first')
        model.require("embedding")
        vectors = (await self._context.embed(request, model, wire)).vectors
        return reply(to_embedding_list(model.requested, vectors, as_base64=body.as_base64))

    async def models(self, request: web.Request) -> web.Response:
        """GET /v1/models."""
        return reply(to_model_list(self._context.gateway.models()))

    async def model(self, request: web.Request) -> web.Response:
        """GET /v1/models/{model}."""
        found = await self._context.find(request, request.match_info["model"])
        return reply(to_model(found.entry, found.requested))

    def _generate(
        self,
        request: web.Request,
        model: RequestedModel,
        choices: Sequence[generation_pb2.GenerateRequest],
        verb: str,
    ) -> list[Events]:
        for choice in choices:
            check_capabilities(model, choice, verb=verb)
            apply_presets(model.entry, choice)
        return [self._context.generate(request, model, choice, verb=verb) for choice in choices]

    def _identity(self, prefix: str, model: RequestedModel) -> Identity:
        return Identity(prefix, secrets.token_hex(12), self._now(), model.requested)

    def _now(self) -> int:
        return int(self._context.now().timestamp())

    async def _stream(self, request: web.Request, streams: Sequence[Events], chunks: Chunks) -> web.StreamResponse:
        return await self._context.stream(request, _encode(streams, chunks), content_type=SSE, render_error=error_event)


def reply(value: object) -> web.Response:
    """Answers with one JSON object."""
    return web.Response(body=encode_json(value), content_type="application/json")


async def _collect(streams: Sequence[Events]) -> list[Accumulator]:
    collected = [Accumulator() for _ in streams]
    async for choice, event in merge(streams):
        collected[choice].add(event)
    return collected


async def _encode(streams: Sequence[Events], chunks: Chunks) -> AsyncGenerator[bytes, None]:
    async for choice, event in merge(streams):
        for chunk in chunks.chunks(choice, event):
            yield encode_sse(chunk)
    for chunk in chunks.closing():
        yield encode_sse(chunk)
    yield _DONE


async def _encode_response(events: Events, response: ResponseStream) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        async for event in events:
            if told := response.events(event):
                yield b"".join(encode_event(each) for each in told)


async def _complete_response(events: Events, response: ResponseStream) -> dict[str, Any]:
    async with aclosing(events):
        async for event in events:
            response.events(event)
    if response.completed is None:
        raise EngineFault("the generation stopped without saying how it ended")
    return response.completed

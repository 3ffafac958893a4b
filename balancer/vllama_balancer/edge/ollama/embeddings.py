"""Embeddings: /api/embed for many texts, /api/embeddings for one; translations and handlers."""

from __future__ import annotations

from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from vllama_balancer.edge.body import encode_json
from vllama_balancer.edge.embedding_reply import encode_vectors
from vllama_balancer.edge.http_errors import CONTEXT_TOO_LONG, HttpError
from vllama_balancer.edge.ollama.options import check_options, parse_keep_alive
from vllama_balancer.edge.ollama.schema import json_reply
from vllama_balancer.edge.request_stats import STATS
from vllama_balancer.edge.wire.bounds import INT32_MAX
from vllama_balancer.errors import InvalidRequest
from vllama_protos.v1 import embedding_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from vllama_balancer.edge.context import HandlerContext
    from vllama_balancer.edge.model_lookup import RequestedModel


class EmbedBody(msgspec.Struct, frozen=True):
    """POST /api/embed."""

    model: str | None = None
    input: Any = None
    truncate: bool | None = None
    dimensions: int | None = None
    options: dict[str, Any] | None = None
    keep_alive: Any = None


class EmbeddingsBody(msgspec.Struct, frozen=True):
    """POST /api/embeddings, the older call."""

    model: str | None = None
    prompt: str | None = None
    options: dict[str, Any] | None = None
    keep_alive: Any = None


class EmbedReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """One vector per input, in order; durations are nanoseconds."""

    model: str
    embeddings: list[list[float]]
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0


class EmbeddingsReply(msgspec.Struct, frozen=True):
    """A single vector."""

    embedding: list[float]


def inputs_of(body: EmbedBody) -> list[str]:
    """Returns the texts; none for an empty one alone. Raises InvalidRequest for any other type."""
    given = body.input
    if given is None or given == "":
        return []
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise InvalidRequest("invalid input type", field="input")
    return given


def to_embed_request(body: EmbedBody, inputs: list[str]) -> embedding_pb2.EmbedRequest:
    """Translates a body: vectors of length 1; over-long inputs are truncated unless the client forbids it."""
    dimensions = body.dimensions or 0
    if not 0 <= dimensions <= INT32_MAX:
        raise InvalidRequest("dimensions must be 0 or more", field="dimensions")
    return embedding_pb2.EmbedRequest(
        inputs=inputs, truncate=body.truncate is not False, dimensions=dimensions, normalize=True
    )


def encode_vector(_: int, vector: embedding_pb2.Vector) -> bytes:
    """Returns one element of the reply's `embeddings`."""
    return encode_json(list(vector.values))


def embed_frame(requested: str, elapsed_ns: Callable[[], int], tokens: int) -> tuple[bytes, bytes]:
    """Returns what is before and after the vectors of a reply."""
    reply = EmbedReply(requested, [], max(1, elapsed_ns()), load_duration=1, prompt_eval_count=max(1, tokens))
    before, embeddings, after = encode_json(reply).partition(b'"embeddings":[')
    return before + embeddings, after


class EmbeddingHandlers:
    """Handlers of both embedding calls."""

    def __init__(self, context: HandlerContext) -> None:
        self._context = context

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/api/embed", self.embed), web.post("/api/embeddings", self.embeddings)]

    async def embed(self, request: web.Request) -> web.StreamResponse:
        """POST /api/embed: one vector per text."""
        body = await self._context.read(request, EmbedBody)
        self._context.raise_if_full(body.model)
        inputs = inputs_of(body)
        if not body.model:
            raise HttpError(404, "model '' not found")
        model = await self._find_embedder(request, body.model, body.options, body.keep_alive)
        embedding = to_embed_request(body, inputs)
        if not inputs:
            return json_reply(EmbedReply(model.requested, []))
        frame = partial(embed_frame, model.requested, request[STATS].elapsed_ns)
        pieces = encode_vectors(self._embed(request, model, embedding), encode_vector, frame)
        return await self._context.send_vectors(request, pieces, charset="utf-8")

    async def embeddings(self, request: web.Request) -> web.Response:
        """POST /api/embeddings: one vector, not normalized."""
        body = await self._context.read(request, EmbeddingsBody)
        self._context.raise_if_full(body.model)
        if not body.model:
            raise InvalidRequest("model is required", field="model")
        model = await self._find_embedder(request, body.model, body.options, body.keep_alive)
        if not body.prompt:
            return json_reply(EmbeddingsReply([]))
        embedding = embedding_pb2.EmbedRequest(inputs=[body.prompt], truncate=True, normalize=False)
        [vector] = [each async for batch in self._embed(request, model, embedding) for each in batch]
        return json_reply(EmbeddingsReply(list(vector.values)))

    async def _find_embedder(
        self, request: web.Request, requested: str, options: dict[str, Any] | None, keep_alive: object
    ) -> RequestedModel:
        model = await self._context.find(request, requested, not_found='model "{}" not found, try pulling it first')
        model.require("embedding")
        check_options(options or {})
        keep_alive_seconds = parse_keep_alive(keep_alive)
        if keep_alive_seconds is not None:
            self._context.residency.keep(model.entry.name, keep_alive_seconds)
        return model

    async def _embed(
        self, request: web.Request, model: RequestedModel, embedding: embedding_pb2.EmbedRequest
    ) -> AsyncGenerator[Sequence[embedding_pb2.Vector], None]:
        try:
            async with aclosing(self._context.embed(request, model, embedding)) as batches:
                async for batch in batches:
                    yield batch
        except InvalidRequest as error:
            if error.reason != CONTEXT_TOO_LONG:
                raise
            message = f"the input length exceeds the context length: {error}"
            raise InvalidRequest(message, reason=error.reason, field="input") from error

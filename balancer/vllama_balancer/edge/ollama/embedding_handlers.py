"""The handlers of both embedding calls: decode, translate, dispatch, encode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from vllama_balancer.edge.http_errors import HttpError
from vllama_balancer.edge.ollama.embeddings import (
    EmbedBody,
    EmbeddingsBody,
    EmbeddingsReply,
    EmbedReply,
    inputs_of,
    to_embed_reply,
    to_embed_request,
)
from vllama_balancer.edge.ollama.keep_alive import parse_keep_alive
from vllama_balancer.edge.ollama.options import check_options
from vllama_balancer.edge.ollama.replies import json_reply
from vllama_balancer.edge.request_stats import STATS
from vllama_balancer.errors import InvalidRequest
from vllama_protos.v1 import embedding_pb2

if TYPE_CHECKING:
    from vllama_balancer.edge.context import HandlerContext
    from vllama_balancer.edge.model_lookup import RequestedModel


class EmbeddingHandlers:
    """Embeddings over one edge."""

    def __init__(self, context: HandlerContext) -> None:
        self._context = context

    def routes(self) -> list[web.RouteDef]:
        """The paths."""
        return [web.post("/api/embed", self.embed), web.post("/api/embeddings", self.embeddings)]

    async def embed(self, request: web.Request) -> web.Response:
        """POST /api/embed: one vector per text."""
        body = await self._context.read(request, EmbedBody)
        self._context.expect_room(body.model)
        inputs = inputs_of(body)
        if not body.model:
            raise HttpError(404, "model '' not found")
        model = await self._find_embedder(request, body.model, body.options, body.keep_alive)
        wire = to_embed_request(body, inputs)
        if not inputs:
            return json_reply(EmbedReply(model.requested, []))
        vectors = await self._embedded(request, model, wire)
        return json_reply(to_embed_reply(model.requested, vectors, request[STATS].elapsed_ns()))

    async def embeddings(self, request: web.Request) -> web.Response:
        """POST /api/embeddings: one vector, as the model made it."""
        body = await self._context.read(request, EmbeddingsBody)
        self._context.expect_room(body.model)
        if not body.model:
            raise InvalidRequest("model is required", field="model")
        model = await self._find_embedder(request, body.model, body.options, body.keep_alive)
        if not body.prompt:
            return json_reply(EmbeddingsReply([]))
        wire = embedding_pb2.EmbedRequest(inputs=[body.prompt], truncate=True, normalize=False)
        vectors = await self._embedded(request, model, wire)
        return json_reply(EmbeddingsReply(list(vectors.vectors[0].values)))

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

    async def _embedded(
        self, request: web.Request, model: RequestedModel, wire: embedding_pb2.EmbedRequest
    ) -> embedding_pb2.EmbedResponse:
        try:
            return await self._context.embed(request, model, wire)
        except InvalidRequest as error:
            if error.reason != "CONTEXT_TOO_LONG":
                raise
            message = f"the input length exceeds the context length: {error}"
            raise InvalidRequest(message, reason=error.reason, field="input") from error

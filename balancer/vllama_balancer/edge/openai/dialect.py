"""The routes of the OpenAI dialect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from vllama_balancer.edge.dialect import Dialect
from vllama_balancer.edge.openai.errors import error_body
from vllama_balancer.edge.openai.handlers import Handlers

if TYPE_CHECKING:
    from vllama_balancer.edge.context import HandlerContext


def _routes(context: HandlerContext) -> list[web.RouteDef]:
    handlers = Handlers(context)
    return [
        web.post("/v1/chat/completions", handlers.chat),
        web.post("/v1/completions", handlers.complete),
        web.post("/v1/responses", handlers.respond),
        web.post("/v1/embeddings", handlers.embed),
        web.get("/v1/models", handlers.models),
        # Slashes in names may be percent-encoded or not.
        web.get("/v1/models/{model:.+}", handlers.model),
    ]


DIALECT = Dialect("/v1/", _routes, error_body)

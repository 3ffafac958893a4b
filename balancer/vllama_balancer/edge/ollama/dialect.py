"""The Ollama dialect: its routes and the shape of its errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_balancer.edge.dialect import Dialect
from vllama_balancer.edge.ollama.embedding_handlers import EmbeddingHandlers
from vllama_balancer.edge.ollama.errors import error_body
from vllama_balancer.edge.ollama.generation_handlers import GenerationHandlers
from vllama_balancer.edge.ollama.listing_handlers import ListingHandlers
from vllama_balancer.edge.ollama.management_handlers import ManagementHandlers

if TYPE_CHECKING:
    from aiohttp import web

    from vllama_balancer.edge.context import HandlerContext


def _routes(context: HandlerContext) -> list[web.RouteDef]:
    parts = (ListingHandlers, GenerationHandlers, EmbeddingHandlers, ManagementHandlers)
    return [route for part in parts for route in part(context).routes()]


DIALECT = Dialect("/", _routes, error_body)
"""Everything that no other dialect answers."""

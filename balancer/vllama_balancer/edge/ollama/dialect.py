"""The routes of the Ollama dialect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_balancer.edge.dialect import Dialect
from vllama_balancer.edge.ollama.embeddings import EmbeddingHandlers
from vllama_balancer.edge.ollama.errors import error_body
from vllama_balancer.edge.ollama.handlers import GenerationHandlers, ListingHandlers
from vllama_balancer.edge.ollama.management import ManagementHandlers

if TYPE_CHECKING:
    from aiohttp import web

    from vllama_balancer.edge.context import HandlerContext


def _routes(context: HandlerContext) -> list[web.RouteDef]:
    parts = (ListingHandlers, GenerationHandlers, EmbeddingHandlers, ManagementHandlers)
    return [route for part in parts for route in part(context).routes()]


DIALECT = Dialect("/", _routes, error_body)
"""Serves every path that no other dialect has."""

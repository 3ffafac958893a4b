"""The Ollama dialect: its routes and the shape of its errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from vllama_balancer.edge.dialect import Dialect
from vllama_balancer.edge.ollama.errors import error_body
from vllama_balancer.edge.ollama.handlers import OllamaHandlers
from vllama_balancer.edge.ollama.management_handlers import ManagementHandlers

if TYPE_CHECKING:
    from vllama_balancer.edge.edge import Edge


def routes(edge: Edge) -> list[web.RouteDef]:
    """The native API over an edge."""
    handlers = OllamaHandlers(edge)
    return [
        web.get("/api/version", handlers.version),
        web.get("/api/status", handlers.status),
        web.get("/api/tags", handlers.tags),
        web.get("/api/ps", handlers.ps),
        web.post("/api/show", handlers.show),
        web.post("/api/generate", handlers.generate),
        web.post("/api/chat", handlers.chat),
        web.post("/api/embed", handlers.embed),
        web.post("/api/embeddings", handlers.embeddings),
        *ManagementHandlers(edge).routes(),
    ]


DIALECT = Dialect("/", routes, error_body)

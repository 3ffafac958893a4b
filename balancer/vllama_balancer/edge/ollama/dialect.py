"""The Ollama dialect: its routes and the shape of its errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from vllama_balancer.edge.dialect import Dialect
from vllama_balancer.edge.encoding import encode_json

if TYPE_CHECKING:
    from vllama_balancer.edge.edge import Edge


def _routes(edge: Edge) -> list[web.RouteDef]:
    async def root(request: web.Request) -> web.Response:
        return web.Response(text="Ollama is running")

    async def version(request: web.Request) -> web.Response:
        return web.Response(body=encode_json({"version": edge.config.version}), content_type="application/json")

    return [web.get("/", root), web.get("/api/version", version)]


def error_body(status: int, message: str, request_id: str) -> dict[str, str]:
    """The body of an error, whatever its status."""
    return {"error": message}


DIALECT = Dialect("/", _routes, error_body)

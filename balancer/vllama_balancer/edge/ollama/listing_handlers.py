"""The handlers that tell what is there: version, models, what is loaded, all about one model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from vllama_balancer.edge.ollama import metadata
from vllama_balancer.edge.ollama.replies import json_reply
from vllama_balancer.edge.ollama.requests import ShowBody
from vllama_balancer.edge.ollama.show import to_show_reply
from vllama_balancer.errors import InvalidRequest
from vllama_balancer.names import parse_name

if TYPE_CHECKING:
    from vllama_balancer.edge.context import HandlerContext


class ListingHandlers:
    """Listings over one edge; none of them waits for a worker."""

    def __init__(self, context: HandlerContext) -> None:
        self._context = context

    def routes(self) -> list[web.RouteDef]:
        """The paths."""
        return [
            web.get("/api/version", self.version),
            web.get("/api/status", self.status),
            web.get("/api/tags", self.tags),
            web.get("/api/ps", self.ps),
            web.post("/api/show", self.show),
        ]

    async def version(self, request: web.Request) -> web.Response:
        """GET /api/version."""
        return json_reply({"version": self._context.config.api_version})

    async def status(self, request: web.Request) -> web.Response:
        """GET /api/status: newer command lines ask whether hosted models may be used."""
        return json_reply({"cloud": {"disabled": True, "source": "env"}})

    async def tags(self, request: web.Request) -> web.Response:
        """GET /api/tags: the models that can be named."""
        return json_reply({"models": metadata.tags(self._context.gateway.models())})

    async def ps(self, request: web.Request) -> web.Response:
        """GET /api/ps: the models that are loaded."""
        return json_reply({"models": metadata.loaded(self._context.gateway.models(), self._context.now())})

    async def show(self, request: web.Request) -> web.Response:
        """POST /api/show: all about one model."""
        body = await self._context.read(request, ShowBody)
        requested = body.model or body.name
        if not requested:
            raise InvalidRequest("model is required", field="model")
        not_found = f"model '{parse_name(requested).display}' not found"
        model = await self._context.find(request, requested, not_found=not_found)
        return json_reply(to_show_reply(body, model, request.headers.get("User-Agent", "")))

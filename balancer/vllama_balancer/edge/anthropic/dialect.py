"""The Anthropic dialect: its routes and the shape of its errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from vllama_balancer.edge.anthropic.errors import error_body
from vllama_balancer.edge.anthropic.handlers import Handlers
from vllama_balancer.edge.dialect import Dialect

if TYPE_CHECKING:
    from vllama_balancer.edge.context import HandlerContext


def _routes(context: HandlerContext) -> list[web.RouteDef]:
    handlers = Handlers(context)
    return [
        web.post("/v1/messages", handlers.messages),
        web.post("/v1/messages/count_tokens", handlers.count_tokens),
    ]


DIALECT = Dialect("/v1/messages", _routes, error_body)

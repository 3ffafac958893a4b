"""The Anthropic dialect: routes, handlers and the shape of errors."""

from __future__ import annotations

import secrets
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import web

from vllama_balancer.edge import http_errors
from vllama_balancer.edge.anthropic.messages_reply import MessageIdentity, MessageStream, encode_event, to_message
from vllama_balancer.edge.anthropic.messages_request import MessagesRequest, to_chat, to_generation
from vllama_balancer.edge.body import encode_sse, json_response
from vllama_balancer.edge.dialect import Dialect
from vllama_balancer.edge.request_stats import STATS
from vllama_balancer.edge.streaming import SSE
from vllama_balancer.edge.wire.accumulator import collect
from vllama_balancer.edge.wire.capabilities import check_capabilities, drop_thinking
from vllama_balancer.edge.wire.presets import apply_presets
from vllama_balancer.errors import InvalidRequest
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from vllama_balancer.edge.context import HandlerContext
    from vllama_balancer.edge.model_lookup import RequestedModel
    from vllama_balancer.edge.wire.accumulator import Event
    from vllama_balancer.errors import BalancerError

    Events = AsyncGenerator[Event, None]

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


def error_body(status: int, message: str, request_id: str) -> dict[str, Any]:
    """Returns the body of an error."""
    error = {"type": _TYPES.get(status, "api_error"), "message": message}
    return {"type": "error", "error": error, "request_id": f"req_{request_id}"}


def error_event(error: BalancerError, request_id: str) -> bytes:
    """Returns the last event of a failed stream."""
    return encode_sse(error_body(http_errors.http_status(error), http_errors.message(error), request_id), "error")


class Handlers:
    """Handlers of /v1/messages."""

    def __init__(self, context: HandlerContext) -> None:
        self._context = context

    async def messages(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/messages."""
        body = await self._context.read(request, MessagesRequest)
        self._context.raise_if_full(body.model)
        generation = to_generation(body)
        model = await self._context.find(request, body.model or "")
        _fit(model, generation)
        events = self._context.generate(request, model, generation)
        identity = MessageIdentity(f"msg_{secrets.token_hex(12)}", model.requested)
        if body.stream:
            return await self._context.stream(
                request,
                _encode(events, MessageStream(identity)),
                content_type=SSE,
                render_error=partial(error_event, request_id=request[STATS].request_id),
            )
        async with aclosing(events):
            return json_response(to_message(identity, await collect(events)))

    async def count_tokens(self, request: web.Request) -> web.Response:
        """POST /v1/messages/count_tokens: the rendered chat, tokenized by the model."""
        body = await self._context.read(request, MessagesRequest)
        if not body.model:
            raise InvalidRequest("model is required", field="model")
        generation = generation_pb2.GenerateRequest(chat=to_chat(body))
        model = await self._context.find(request, body.model)
        _fit(model, generation)
        tokenization = generation_pb2.TokenizeRequest(chat=generation.chat)
        tokenized = await self._context.tokenize(request, model, tokenization)
        return json_response({"input_tokens": len(tokenized.token_ids)})


def _fit(model: RequestedModel, generation: generation_pb2.GenerateRequest) -> None:
    drop_thinking(model, generation.chat)
    check_capabilities(model, generation)
    apply_presets(model.entry.presets, generation)


async def _encode(events: Events, stream: MessageStream) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        async for event in events:
            if translated := stream.events(event):
                yield b"".join(encode_event(each) for each in translated)


def _routes(context: HandlerContext) -> list[web.RouteDef]:
    handlers = Handlers(context)
    return [
        web.post("/v1/messages", handlers.messages),
        web.post("/v1/messages/count_tokens", handlers.count_tokens),
    ]


DIALECT = Dialect("/v1/messages", _routes, error_body)

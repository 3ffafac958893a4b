"""Guards the gRPC front door: demands an API key where keys are configured."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any

import grpc

from vllama_balancer.errors import Unauthenticated
from vllama_balancer.rpc_errors import rich_status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    Handler = grpc.RpcMethodHandler[Any, Any]
    Context = grpc.aio.ServicerContext[Any, Any]

OPEN_METHODS = ("/grpc.health.v1.Health/",)
"""Answer without a key: what checks health has none."""


class KeyInterceptor(grpc.aio.ServerInterceptor):
    """Lets calls in that carry `authorization: Bearer <key>` with one of the keys; all, when there are no keys."""

    def __init__(self, api_keys: Collection[str]) -> None:
        self._keys = tuple(key.encode() for key in api_keys)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Lets the call through, or answers it with UNAUTHENTICATED."""
        handler = await continuation(handler_call_details)
        if not self._keys or handler is None or self._may_pass(handler_call_details):
            return handler
        return _refusal(handler)

    def _may_pass(self, details: grpc.HandlerCallDetails) -> bool:
        if details.method.startswith(OPEN_METHODS):
            return True
        given = dict(details.invocation_metadata or ()).get("authorization", "")
        scheme, _, key = str(given).partition(" ")
        return scheme.lower() == "bearer" and any(hmac.compare_digest(key.encode(), known) for known in self._keys)


async def _refuse(_: object, context: Context) -> None:
    message = "the API key is missing or wrong: send it as 'authorization: Bearer <key>'"
    await context.abort_with_status(rich_status(Unauthenticated(message)))


def _refusal(handler: Handler) -> Handler:
    """Makes a handler of the same kind that refuses; every method here takes one request."""
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(_refuse, handler.request_deserializer, handler.response_serializer)
    return grpc.unary_unary_rpc_method_handler(_refuse, handler.request_deserializer, handler.response_serializer)

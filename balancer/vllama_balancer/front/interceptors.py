"""Guards the gRPC front door: demands an API key where keys are configured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from vllama_balancer.errors import Unauthenticated
from vllama_balancer.front.rpc_errors import rich_status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from vllama_balancer.keys import ApiKeys

    Handler = grpc.RpcMethodHandler[Any, Any]
    Context = grpc.aio.ServicerContext[Any, Any]

OPEN_METHODS = ("/grpc.health.v1.Health/", "/vllama.v1.Membership/")
"""Answer without a key: what checks health has none, and who joins shows a token of its own."""


class KeyInterceptor(grpc.aio.ServerInterceptor):
    """Lets calls in that carry one of the keys as metadata, as HTTP callers do in headers."""

    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Lets the call through, or answers it with UNAUTHENTICATED."""
        handler = await continuation(handler_call_details)
        if handler is None or self._may_pass(handler_call_details):
            return handler
        return _refusal(handler)

    def _may_pass(self, details: grpc.HandlerCallDetails) -> bool:
        if details.method.startswith(OPEN_METHODS):
            return True
        try:
            self._keys.owner_of({str(name): str(value) for name, value in details.invocation_metadata or ()})
        except Unauthenticated:
            return False
        return True


async def _refuse(_: object, context: Context) -> None:
    message = "the API key is missing or wrong: send it as 'authorization: Bearer <key>'"
    await context.abort_with_status(rich_status(Unauthenticated(message)))


def _refusal(handler: Handler) -> Handler:
    """Makes a handler of the same kind that refuses; every method here takes one request."""
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(_refuse, handler.request_deserializer, handler.response_serializer)
    return grpc.unary_unary_rpc_method_handler(_refuse, handler.request_deserializer, handler.response_serializer)

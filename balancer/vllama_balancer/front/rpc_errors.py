"""Errors of the gRPC front door: exceptions as rich gRPC statuses, and the check of API keys."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import grpc
from google.rpc import status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from vllama_balancer.errors import Unauthenticated
from vllama_protos.errors import ErrorDetails, encode_status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from vllama_balancer.errors import BalancerError
    from vllama_balancer.keys import ApiKeys

    Handler = grpc.RpcMethodHandler[Any, Any]
    Context = grpc.aio.ServicerContext[Any, Any]

OPEN_METHODS = ("/grpc.health.v1.Health/", "/vllama.v1.Membership/")
"""Methods without an API key: health checks have none, and joining workers show a token of their own."""


def rich_status(error: BalancerError) -> grpc.Status:
    """Returns the status of an error: its message, an ErrorInfo with reason and field, and a RetryInfo."""
    return _status(error.status, str(error), error.reason, error.field, error.retry_after_seconds)


# A full queue refuses hundreds at once, with the same words.
@lru_cache(maxsize=64)
def _status(
    code: grpc.StatusCode, message: str, reason: str, field: str, retry_after_seconds: float | None
) -> grpc.Status:
    details = ErrorDetails(reason, field, retry_after_seconds=retry_after_seconds)
    return rpc_status.to_status(status_pb2.Status.FromString(encode_status(code.value[0], message, details)))


class KeyInterceptor(grpc.aio.ServerInterceptor):
    """Answers calls without a valid API key in their metadata with UNAUTHENTICATED."""

    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
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
    """Returns a handler of the same kind that refuses; every method here takes one request."""
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(_refuse, handler.request_deserializer, handler.response_serializer)
    return grpc.unary_unary_rpc_method_handler(_refuse, handler.request_deserializer, handler.response_serializer)

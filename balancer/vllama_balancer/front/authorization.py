"""The rights of gRPC callers: one interceptor in front of every service.

A call's peer is known to its handler's context alone, so the interceptor puts the check before the handler.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import grpc

from vllama_balancer.callers import peer_address, rpc_rights
from vllama_balancer.errors import BalancerError
from vllama_balancer.front.rpc_errors import rich_status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from vllama_balancer.callers import Access, Caller, Headers

    Handler = grpc.RpcMethodHandler[Any, Any]
    Context = grpc.aio.ServicerContext[Any, Any]

_KINDS: dict[tuple[bool, bool], tuple[str, Any]] = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}
"""A handler's function and its maker, by whether requests and responses are streams."""


def caller_of(access: Access, context: Context) -> Caller:
    """Returns the caller of a call. Raises Unauthenticated."""
    return access.caller(peer_address(context.peer()), _headers_of(context))


class AuthorizationInterceptor(grpc.aio.ServerInterceptor):
    """Ends calls whose caller lacks the scope: with UNAUTHENTICATED or PERMISSION_DENIED."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._guarded: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not rpc_rights(method):
            return handler
        # Only known methods get here, so there are few.
        return self._guarded.setdefault(method, self._guarded.get(method) or self._guard(handler, method))

    def _guard(self, handler: Handler, method: str) -> Handler:
        """Returns a handler of the same kind that checks its caller first."""
        kind, make = _KINDS[bool(handler.request_streaming), bool(handler.response_streaming)]
        work, rights = getattr(handler, kind), rpc_rights(method)

        async def check(context: Context) -> None:
            try:
                self._access.admitted(rights, peer_address(context.peer()), _headers_of(context))
            except BalancerError as error:
                await context.abort_with_status(rich_status(error))

        async def call(request: Any, context: Context) -> Any:
            await check(context)
            return await work(request, context)

        async def generate(request: Any, context: Context) -> AsyncIterator[Any]:
            await check(context)
            async for response in work(request, context):
                yield response

        guarded = generate if inspect.isasyncgenfunction(work) else call
        return make(guarded, handler.request_deserializer, handler.response_serializer)  # type: ignore[no-any-return]


def _headers_of(context: Context) -> Headers:
    metadata = context.invocation_metadata() or ()
    return lambda name: [value for key, value in metadata if key == name and isinstance(value, str)]

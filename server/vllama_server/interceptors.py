"""Puts every call of our services on record, and turns its error into a status.

Servicers raise the worker's own exceptions and never speak of gRPC statuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from vllama_server.errors import WorkerError, status_of
from vllama_server.status_details import TRAILER, details_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from vllama_server.call_record import CallRecord

    Behaviour = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]

OUR_PACKAGE = "/vllama.v1."
REQUEST_ID_KEY = "x-request-id"


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every call of the vllama services; leaves health and reflection alone."""

    def __init__(self, record: CallRecord) -> None:
        self._record = record

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wraps the handler of one call."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(OUR_PACKAGE):
            return handler
        if handler.request_streaming:
            # It carries other calls, and puts each of them on record itself.
            return handler
        method = handler_call_details.method.rpartition("/")[2]
        # Both kinds are plain coroutines here: a streaming one writes to its context.
        if handler.response_streaming:
            make, behaviour = grpc.unary_stream_rpc_method_handler, handler.unary_stream
        else:
            make, behaviour = grpc.unary_unary_rpc_method_handler, handler.unary_unary
        return make(
            self._surround(method, behaviour),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _surround(self, method: str, behaviour: Any) -> Behaviour:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                with self._record.of(method, _given_id(request, context)) as request_id:
                    if "request_id" in request.DESCRIPTOR.fields_by_name:
                        request.request_id = request_id
                    return await behaviour(request, context)
            except WorkerError as error:
                await _abort(context, error)

        return call


def _given_id(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """The id in the request, else the one in its metadata, else nothing."""
    given: str = getattr(request, "request_id", "")
    if given:
        return given
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY:
            return str(value)
    return ""


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: WorkerError) -> None:
    trailers = (*(context.trailing_metadata() or ()), (TRAILER, details_of(error)))
    await context.abort(status_of(error), str(error), trailing_metadata=trailers)

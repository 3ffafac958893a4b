"""What surrounds every call of our services: its id, its time, its metrics, and its errors as statuses.

Servicers raise the worker's own exceptions and never speak of gRPC statuses.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from typing import TYPE_CHECKING, Any

import grpc

from vllama_server.errors import EngineFault, WorkerError, status_of
from vllama_server.status_details import TRAILER, details_of
from vllama_server.wire.requests import check_request_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from vllama_server.metrics import WorkerMetrics

    Behaviour = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]

logger = logging.getLogger(__name__)

OUR_PACKAGE = "/vllama.v1."
REQUEST_ID_KEY = "x-request-id"
QUIET_METHODS = frozenset({"Describe", "Watch"})
"""Methods that supervisors call all the time: their lines are for debugging."""


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every call of the vllama services; leaves health and reflection alone."""

    def __init__(self, metrics: WorkerMetrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wraps the handler of one call."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(OUR_PACKAGE):
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
            started_at = self._clock()
            request_id = uuid.uuid4().hex
            code = grpc.StatusCode.OK
            try:
                request_id = _checked_id(_given_id(request, context) or request_id)
                if "request_id" in request.DESCRIPTOR.fields_by_name:
                    request.request_id = request_id
                return await behaviour(request, context)
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except WorkerError as error:
                code = status_of(error)
                await _abort(context, error)
            except Exception:
                code = grpc.StatusCode.INTERNAL
                logger.exception("%s request %s failed", method, request_id)
                await _abort(context, EngineFault("the worker failed on this request; its log has the cause."))
            finally:
                self._record(method, request_id, code, self._clock() - started_at)

        return call

    def _record(self, method: str, request_id: str, code: grpc.StatusCode, seconds: float) -> None:
        self._metrics.requests.labels(method, code.name).inc()
        self._metrics.request_seconds.labels(method).observe(seconds)
        level = logging.DEBUG if method in QUIET_METHODS else logging.INFO
        logger.log(level, "%s request %s ended %s after %.3f s", method, request_id, code.name, seconds)


def _given_id(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """The id in the request, else the one in its metadata, else nothing."""
    given: str = getattr(request, "request_id", "")
    if given:
        return given
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY:
            return str(value)
    return ""


def _checked_id(request_id: str) -> str:
    check_request_id(request_id)
    return request_id


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: WorkerError) -> None:
    trailers = (*(context.trailing_metadata() or ()), (TRAILER, details_of(error)))
    await context.abort(status_of(error), str(error), trailing_metadata=trailers)

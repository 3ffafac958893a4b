"""Log, metrics and error translation of every call of our services, from a call of its own or a Relay call.

Servicers raise the worker's own exceptions; RpcInterceptor turns them into gRPC statuses.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc

from vllama_protos.errors import DETAILS_TRAILER
from vllama_server.errors import EngineFault, WorkerError, encoded_status, status_of
from vllama_server.wire.request_validation import check_request_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from vllama_server.metrics import WorkerMetrics

    Handler = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]


logger = logging.getLogger(__name__)

OUR_PACKAGE = "/vllama.v1."
REQUEST_ID_KEY = "x-request-id"
QUIET_METHODS = frozenset({"Describe", "Watch"})
"""Methods that supervisors call all the time: logged at level DEBUG."""

DEADLINE_TOLERANCE_SECONDS = 0.1
"""A caller's clock for the deadline starts earlier than the worker's, by the time that the request was under way."""


class RpcLog:
    """Counts, times and logs calls."""

    def __init__(self, metrics: WorkerMetrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock

    @contextmanager
    def call(
        self, method: str, given_id: str, seconds_left: Callable[[], float | None] = lambda: None
    ) -> Iterator[str]:
        """Surrounds one call and yields its id: the given one, or a new one.

        `seconds_left` returns the time until the call's deadline, None without one: a call that is cancelled at its
        deadline counts as DEADLINE_EXCEEDED.
        Raises only WorkerError, besides a cancellation: InvalidRequest for a wrong id, and EngineFault in place of any
        other exception, which is logged and not shown to the caller.
        """
        started_at = self._clock()
        request_id = uuid.uuid4().hex
        code = grpc.StatusCode.OK
        try:
            if given_id:
                check_request_id(given_id)
                request_id = given_id
            yield request_id
        except asyncio.CancelledError:
            left = seconds_left()
            is_late = left is not None and left < DEADLINE_TOLERANCE_SECONDS
            code = grpc.StatusCode.DEADLINE_EXCEEDED if is_late else grpc.StatusCode.CANCELLED
            raise
        except WorkerError as error:
            code = status_of(error)
            raise
        except Exception as error:
            code = grpc.StatusCode.INTERNAL
            logger.exception("%s request %s failed", method, request_id)
            raise EngineFault("the worker failed on this request; its log has the cause.") from error
        finally:
            self._close(method, request_id, code, self._clock() - started_at)

    def _close(self, method: str, request_id: str, code: grpc.StatusCode, seconds: float) -> None:
        self._metrics.requests.labels(method, code.name).inc()
        self._metrics.request_seconds.labels(method).observe(seconds)
        level = logging.DEBUG if method in QUIET_METHODS else logging.INFO
        logger.log(level, "%s request %s ended %s after %.3f s", method, request_id, code.name, seconds)


class RpcInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every call of the vllama services; leaves health and reflection alone."""

    def __init__(self, log: RpcLog) -> None:
        self._log = log

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
            # Relay: its generations are logged one by one.
            return handler
        method = handler_call_details.method.rpartition("/")[2]
        # Both kinds are plain coroutines here: a streaming one writes to its context.
        if handler.response_streaming:
            make, method_handler = grpc.unary_stream_rpc_method_handler, handler.unary_stream
        else:
            make, method_handler = grpc.unary_unary_rpc_method_handler, handler.unary_unary
        return make(
            self._logged(method, method_handler),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _logged(self, method: str, method_handler: Any) -> Handler:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                with self._log.call(method, _given_id(request, context), context.time_remaining) as request_id:
                    if "request_id" in request.DESCRIPTOR.fields_by_name:
                        request.request_id = request_id
                    return await method_handler(request, context)
            except WorkerError as error:
                await _abort(context, error)

        return call


def _given_id(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """Returns the id in the request, else the one in its metadata, else an empty text."""
    given: str = getattr(request, "request_id", "")
    if given:
        return given
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY:
            return str(value)
    return ""


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: WorkerError) -> None:
    trailers = (*(context.trailing_metadata() or ()), (DETAILS_TRAILER, encoded_status(error)))
    await context.abort(status_of(error), str(error), trailing_metadata=trailers)

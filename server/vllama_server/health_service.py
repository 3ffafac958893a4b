"""grpc.health.v1 over the worker's lifecycle: SERVING exactly while it takes new requests.

The ready-made servicer holds a lock while it writes to a watcher, so one stalled watcher would delay every change of
state. This one shares nothing between watchers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vllama_protos.v1.worker_pb2 import WORKER_STATE_READY

if TYPE_CHECKING:
    from collections.abc import Collection

    from vllama_server.lifecycle import Lifecycle

SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class HealthServicer(health_pb2_grpc.HealthServicer):
    """Health of the whole worker ("") and of each of its services, which is always the same."""

    def __init__(self, lifecycle: Lifecycle, services: Collection[str]) -> None:
        self._lifecycle = lifecycle
        self._services = frozenset(services) | {""}

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthCheckResponse:
        """Returns the status now; NOT_FOUND for an unknown service."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {request.service!r} here.")
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Streams the status at once and at every change, until the worker closes."""
        sent = None
        while True:
            change = self._lifecycle.next_change
            status = self._status(request.service)
            if status != sent:
                sent = status
                await context.write(health_pb2.HealthCheckResponse(status=status))
            elif self._lifecycle.closing:
                return
            else:
                await change.wait()

    def _status(self, service: str) -> int:
        if service not in self._services:
            return health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        if self._lifecycle.state == WORKER_STATE_READY:
            return health_pb2.HealthCheckResponse.SERVING
        return health_pb2.HealthCheckResponse.NOT_SERVING

"""The gRPC service grpc.health.v1: SERVING while a worker is available or models are loaded on demand.

It replaces the servicer of grpcio-health-checking, which forgets its other watchers when one of them leaves and needs
a call for every change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Collection

    from vllama_balancer.gateway import FleetView
    from vllama_balancer.workers.pool import Pool

    Context = grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]


class HealthService(health_pb2_grpc.HealthServicer):
    """The health of the server as a whole ("") and of each of its services: they are alike."""

    def __init__(self, pool: Pool, view: FleetView, services: Collection[str]) -> None:
        self._pool = pool
        self._view = view
        self._services = frozenset(services) | {""}
        self._is_leaving = False

    def leave(self) -> None:
        """Reports NOT_SERVING from now on, so that clients choose another balancer."""
        self._is_leaving = True
        self._pool.changes.increment()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:  # noqa: N802
        """Returns the present state. NOT_FOUND for an unknown service."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service {request.service!r}")
        return health_pb2.HealthCheckResponse(status=self._status())

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:  # noqa: N802
        """Streams the state: now and whenever it changes."""
        if request.service not in self._services:
            unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            await context.write(health_pb2.HealthCheckResponse(status=unknown))
        last: int | None = None
        version = self._pool.changes.version
        while True:
            status = self._status()
            if status != last and request.service in self._services:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                last = status
            version = await self._pool.changes.after(version)

    def _status(self) -> int:
        is_available = any(not worker.unavailable for worker in self._pool.workers())
        is_serving = not self._is_leaving and (is_available or self._view.fleet().loads_on_demand)
        return health_pb2.HealthCheckResponse.SERVING if is_serving else health_pb2.HealthCheckResponse.NOT_SERVING

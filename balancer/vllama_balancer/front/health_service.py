"""Serves grpc.health.v1 from the pool: SERVING while a worker is available, or would be started for a request.

The package's own servicer forgets its other watchers when one of them leaves, and would have to be
told every change; this one asks the pool, which knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Collection

    from vllama_balancer.gateway import FleetView
    from vllama_balancer.workers.pool import Pool


class HealthService(health_pb2_grpc.HealthServicer):
    """Answers for the server as a whole ("") and for each of its services alike."""

    def __init__(self, pool: Pool, view: FleetView, services: Collection[str]) -> None:
        self._pool = pool
        self._view = view
        self._services = frozenset(services) | {""}
        self._is_leaving = False

    def leave(self) -> None:
        """Says NOT_SERVING from now on, so that clients look for another balancer."""
        self._is_leaving = True
        self._pool.changes.tell()

    async def Check(  # noqa: N802
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse],
    ) -> health_pb2.HealthCheckResponse:
        """Tells the present state. NOT_FOUND for an unknown service."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service {request.service!r}")
        return health_pb2.HealthCheckResponse(status=self._status())

    async def Watch(  # noqa: N802
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse],
    ) -> None:
        """Tells the state now and whenever it changes."""
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
        is_serving = not self._is_leaving and (self._is_anybody_there() or self._view.fleet().loads_on_demand)
        return health_pb2.HealthCheckResponse.SERVING if is_serving else health_pb2.HealthCheckResponse.NOT_SERVING

    def _is_anybody_there(self) -> bool:
        return any(not worker.unavailable for worker in self._pool.workers())

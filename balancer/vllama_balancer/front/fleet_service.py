"""The gRPC service vllama.v1.Fleet: lists and watches the workers, drains and restarts them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc

from vllama_protos.durations import seconds_of
from vllama_protos.v1 import fleet_pb2, fleet_pb2_grpc

if TYPE_CHECKING:
    from vllama_balancer.gateway import FleetView
    from vllama_balancer.workers.pool import Pool
    from vllama_balancer.workers.rolling_restart import RollingRestart

    Context = grpc.aio.ServicerContext[Any, Any]

PUSH_SECONDS = 1.0
"""The list is pushed at least this often, as loads move without a change of state."""
LOCAL_PEERS = ("unix:", "ipv4:127.", "ipv6:[::1]", "ipv6:%5B::1%5D")
"""How gRPC names peers on this machine."""
SHORTEST_PUSH_SECONDS = 0.1
"""Changes that come closer together are pushed as one."""


class FleetService(fleet_pb2_grpc.FleetServicer):
    """The Fleet service. Unless callers need an API key (`is_guarded`), orders are accepted from this machine only."""

    def __init__(self, pool: Pool, rolling: RollingRestart, view: FleetView, *, is_guarded: bool) -> None:
        self._is_guarded = is_guarded
        self._pool = pool
        self._rolling = rolling
        self._view = view

    async def ListWorkers(  # noqa: N802
        self, request: fleet_pb2.ListWorkersRequest, context: Context
    ) -> fleet_pb2.ListWorkersResponse:
        return self._view.fleet()

    async def WatchFleet(self, request: fleet_pb2.WatchFleetRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802
        """Streams the list: at once, on changes, and at least every second."""
        version = self._pool.changes.version
        while True:
            await context.write(self._view.fleet())
            await asyncio.sleep(SHORTEST_PUSH_SECONDS)
            version = await self._changed_or_due(version)

    async def DrainWorker(  # noqa: N802
        self, request: fleet_pb2.DrainWorkerRequest, context: Context
    ) -> fleet_pb2.DrainWorkerResponse:
        """Takes one worker out after its streams have ended, or at the deadline."""
        await self._check_caller(context)
        if self._pool.find(request.worker) is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no worker {request.worker!r}")
        deadline = seconds_of(request.deadline) if request.HasField("deadline") else None
        remaining = await self._rolling.drain(request.worker, deadline)
        return fleet_pb2.DrainWorkerResponse(remaining_streams=remaining)

    async def RestartWorkers(self, request: fleet_pb2.RestartWorkersRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802
        """Restarts workers one after the other, each drained first; streams the list after each."""
        await self._check_caller(context)
        names = list(request.workers) or [worker.name for worker in self._pool.workers()]
        for name in names:
            if self._pool.find(name) is None:
                await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no worker {name!r}")
            if not self._rolling.can_restart(name):
                message = f"worker {name!r} was not started by this balancer: restart it where it runs"
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, message)
        for name in names:
            await self._rolling.restart(name)
            await context.write(self._view.fleet())

    async def _check_caller(self, context: Context) -> None:
        if not self._is_guarded and not context.peer().startswith(LOCAL_PEERS):
            message = "orders to the fleet are taken from this machine only, or with an API key"
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, message)

    async def _changed_or_due(self, version: int) -> int:
        try:
            async with asyncio.timeout(PUSH_SECONDS - SHORTEST_PUSH_SECONDS):
                return await self._pool.changes.after(version)
        except TimeoutError:
            return version

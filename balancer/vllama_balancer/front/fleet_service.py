"""The gRPC service vllama.v1.Fleet: lists and watches the workers, and carries out an operator's orders."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from vllama_balancer.errors import BalancerError
from vllama_balancer.front.rpc_errors import rich_status
from vllama_balancer.workers.rolling_restart import OrderFailed
from vllama_protos.durations import seconds_of
from vllama_protos.v1 import fleet_pb2, fleet_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from vllama_balancer.gateway import FleetView, ModelUnloader
    from vllama_balancer.workers.pool import Pool
    from vllama_balancer.workers.rolling_restart import RollingRestart

    Context = grpc.aio.ServicerContext[Any, Any]

T = TypeVar("T")

PUSH_SECONDS = 1.0
"""The list is pushed at least this often, as loads move without a change of state."""
MOST_WATCHES = 64
"""Streams of WatchFleet at once: each costs some work every second."""
SHORTEST_PUSH_SECONDS = 0.1
"""Changes that come closer together are pushed as one."""


class FleetService(fleet_pb2_grpc.FleetServicer):
    """The Fleet service. Its callers have the scope `fleet`: `authorization` sees to it."""

    def __init__(
        self, pool: Pool, rolling: RollingRestart, view: FleetView, unloader: ModelUnloader | None = None
    ) -> None:
        """Without an unloader, models cannot be unloaded."""
        self._pool = pool
        self._rolling = rolling
        self._view = view
        self._unloader = unloader
        self._watches = 0

    async def ListWorkers(  # noqa: N802
        self, request: fleet_pb2.ListWorkersRequest, context: Context
    ) -> fleet_pb2.ListWorkersResponse:
        return self._view.fleet()

    async def WatchFleet(self, request: fleet_pb2.WatchFleetRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802
        """Streams the list: at once, on changes, and at least every second."""
        if self._watches >= MOST_WATCHES:
            message = f"{MOST_WATCHES} streams of WatchFleet are open; close some, or call ListWorkers"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
        self._watches += 1
        try:
            await self._watch(context)
        finally:
            self._watches -= 1

    async def _watch(self, context: Context) -> None:
        version = self._pool.changes.version
        while True:
            await context.write(self._view.fleet())
            await asyncio.sleep(SHORTEST_PUSH_SECONDS)
            version = await self._changed_or_due(version)

    async def DrainWorker(  # noqa: N802
        self, request: fleet_pb2.DrainWorkerRequest, context: Context
    ) -> fleet_pb2.DrainWorkerResponse:
        """Takes one worker out after its streams have ended, or at the deadline."""
        await self._check_worker(request.worker, context)
        deadline = seconds_of(request.deadline) if request.HasField("deadline") else None
        remaining = await _carried_out(self._rolling.drain(request.worker, deadline), context)
        return fleet_pb2.DrainWorkerResponse(remaining_streams=remaining)

    async def UndrainWorker(  # noqa: N802
        self, request: fleet_pb2.UndrainWorkerRequest, context: Context
    ) -> fleet_pb2.UndrainWorkerResponse:
        """Takes a drain back."""
        await self._check_worker(request.worker, context)
        await _carried_out(self._rolling.undrain(request.worker), context)
        return fleet_pb2.UndrainWorkerResponse()

    async def UnloadModel(  # noqa: N802
        self, request: fleet_pb2.UnloadModelRequest, context: Context
    ) -> fleet_pb2.UnloadModelResponse:
        """Unloads a model once it is idle."""
        if self._unloader is None:
            message = "this balancer does not load models itself: stop their workers where they run"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, message)
        return await _carried_out(self._unloader.unload_model(request.model), context)

    async def RestartWorkers(self, request: fleet_pb2.RestartWorkersRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802
        """Restarts workers one after the other, each drained first; streams the list after each.

        Ends with an error at the first one that does not come back.
        """
        names = list(request.workers) or [worker.name for worker in self._pool.workers()]
        for name in names:
            await self._check_worker(name, context)
            if not self._rolling.can_restart(name):
                message = f"worker {name!r} was not started by this balancer: restart it where it runs"
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, message)
        for position, name in enumerate(names):
            rest = names[position + 1 :]
            note = f"; not restarted: {', '.join(rest)}" if rest else ""
            await _carried_out(self._rolling.restart(name), context, note)
            await context.write(self._view.fleet())

    async def _check_worker(self, name: str, context: Context) -> None:
        if self._pool.find(name) is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no worker {name!r}")

    async def _changed_or_due(self, version: int) -> int:
        try:
            async with asyncio.timeout(PUSH_SECONDS - SHORTEST_PUSH_SECONDS):
                return await self._pool.changes.after(version)
        except TimeoutError:
            return version


async def _carried_out(order: Coroutine[Any, Any, T], context: Context, note: str = "") -> T:
    """Awaits an order and turns its error into a status, with a note at the end of the message."""
    try:
        return await order
    except BalancerError as error:
        failed = error
    if note:
        failed = OrderFailed(f"{failed}{note}")
    return await context.abort_with_status(rich_status(failed))

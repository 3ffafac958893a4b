"""Drains and restarts single workers without a failed request."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import grpc

from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    from vllama_balancer.fleet.events import FleetControl
    from vllama_balancer.workers.pool import Pool
    from vllama_balancer.workers.worker import Worker

logger = logging.getLogger(__name__)

DRAIN_ANSWER_SECONDS = 5.0
"""How much later than its deadline a worker may answer Drain."""


class RollingRestart:
    """Takes workers out one at a time: placement first, then the worker itself, then its process."""

    def __init__(self, pool: Pool, control: FleetControl | None) -> None:
        """Works without a control too; then workers can be drained but not restarted."""
        self._pool = pool
        self._control = control
        self._one_at_a_time = asyncio.Lock()

    def can_restart(self, name: str) -> bool:
        """Tells whether the worker was started here."""
        return self._control is not None and self._control.owns(name)

    async def drain(self, name: str, deadline_seconds: float | None) -> int:
        """Takes a worker out for good and returns the streams that still ran at the deadline.

        A worker that was started here is ended afterwards; what still runs moves to others.
        """
        worker = self._pool.find(name)
        if worker is None:
            return 0
        remaining = await self._empty(worker, deadline_seconds)
        if self._control is not None and self._control.owns(name):
            await self._control.retire(name)
        return remaining

    async def restart(self, name: str) -> None:
        """Drains a worker, restarts its process, and returns when the new life is available."""
        worker = self._pool.find(name)
        if worker is None or self._control is None:
            return
        async with self._one_at_a_time:
            boot_id = worker.incarnation.boot_id
            await self._empty(worker, None)
            await self._control.restart(name)
            if (current := self._pool.find(name)) is not None:
                current.unhold()
            await self._wait_for_new_life(name, boot_id)

    async def _empty(self, worker: Worker, deadline_seconds: float | None) -> int:
        """Sends nothing more there and waits for what runs, as long as the deadline allows."""
        worker.hold("it is drained")
        request = worker_pb2.DrainRequest()
        if deadline_seconds is not None:
            request.deadline.FromNanoseconds(int(deadline_seconds * 1e9))
        timeout = None if deadline_seconds is None else deadline_seconds + DRAIN_ANSWER_SECONDS
        try:
            response = await worker.channel.worker.Drain(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            logger.warning("worker %s did not drain: %s", worker.name, error.details())
            return worker.leases
        return response.remaining_streams

    async def _wait_for_new_life(self, name: str, old_boot_id: str) -> None:
        version = self._pool.changes.version
        while (worker := self._pool.find(name)) is not None and worker.may_come_back:
            if worker.incarnation.boot_id != old_boot_id and not worker.unavailable:
                return
            version = await self._pool.changes.after(version)

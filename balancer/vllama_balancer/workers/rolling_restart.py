"""Rolling restart: drains and restarts workers one at a time without a failed request."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import grpc

from vllama_protos.durations import set_seconds
from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    from vllama_balancer.fleet.events import FleetControl
    from vllama_balancer.workers.pool import Pool
    from vllama_balancer.workers.worker import Worker

logger = logging.getLogger(__name__)

DRAIN_ANSWER_SECONDS = 5.0
"""How long after its deadline a worker may still answer Drain."""


class RollingRestart:
    """Drains or restarts one worker: it leaves placement first, then it drains, then its process ends."""

    def __init__(self, pool: Pool, control: FleetControl | None) -> None:
        """Without a control, workers can be drained but not restarted."""
        self._pool = pool
        self._control = control
        self._one_at_a_time = asyncio.Lock()

    def can_restart(self, name: str) -> bool:
        """Returns whether the worker was started by this balancer."""
        return self._control is not None and self._control.owns(name)

    async def drain(self, name: str, deadline_seconds: float | None) -> int:
        """Takes a worker out for good and returns how many streams still ran at the deadline.

        A worker that was started by this balancer is ended afterwards; its remaining streams move to others.
        """
        worker = self._pool.find(name)
        if worker is None:
            return 0
        remaining = await self._drain_worker(worker, deadline_seconds)
        if self._control is not None and self._control.owns(name):
            await self._control.retire(name)
        return remaining

    async def restart(self, name: str) -> None:
        """Drains a worker, restarts its process, and returns when the new incarnation is available."""
        worker = self._pool.find(name)
        if worker is None or self._control is None:
            return
        async with self._one_at_a_time:
            boot_id = worker.incarnation.boot_id
            await self._drain_worker(worker, None)
            await self._control.restart(name)
            if (current := self._pool.find(name)) is not None:
                current.unhold()
            await self._wait_for_new_incarnation(name, boot_id)

    async def _drain_worker(self, worker: Worker, deadline_seconds: float | None) -> int:
        """Stops placement on the worker and waits for its streams until the deadline."""
        worker.hold("it is drained")
        request = worker_pb2.DrainRequest()
        if deadline_seconds is not None:
            set_seconds(request.deadline, deadline_seconds)
        timeout = None if deadline_seconds is None else deadline_seconds + DRAIN_ANSWER_SECONDS
        try:
            response = await worker.channel.worker.Drain(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            logger.warning("worker %s did not drain: %s", worker.name, error.details())
            return worker.lease_count
        return response.remaining_streams

    async def _wait_for_new_incarnation(self, name: str, old_boot_id: str) -> None:
        version = self._pool.changes.version
        while (worker := self._pool.find(name)) is not None and worker.may_come_back:
            if worker.incarnation.boot_id != old_boot_id and not worker.unavailable:
                return
            version = await self._pool.changes.after(version)

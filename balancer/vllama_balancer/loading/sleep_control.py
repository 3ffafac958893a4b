"""Puts workers to sleep and wakes them over gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from vllama_balancer.errors import NoWorker
from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from vllama_balancer.workers.channel import Channel
    from vllama_balancer.workers.pool import Pool

SLEEP_SECONDS = 120.0
"""Longest time for moving weights to the host's memory: 140 GB over a slow bus."""
WAKE_SECONDS = 120.0
"""Longest time for moving them back."""


class RemoteSleep:
    """Speaks to the workers of a pool: a SleepControl."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def sleep(self, worker: str) -> None:
        """Returns when the worker sleeps. Raises NoWorker with the cause."""
        await self._ask(worker, lambda channel: channel.worker.Sleep(worker_pb2.SleepRequest(), timeout=SLEEP_SECONDS))

    async def wake(self, worker: str) -> None:
        """Returns when the worker serves. Raises NoWorker with the cause."""
        await self._ask(worker, lambda channel: channel.worker.Wake(worker_pb2.WakeRequest(), timeout=WAKE_SECONDS))

    async def _ask(self, name: str, ask: Callable[[Channel], Awaitable[object]]) -> None:
        worker = self._pool.find(name)
        if worker is None:
            raise NoWorker(f"{name} has left")
        try:
            await ask(worker.channel)
        except grpc.aio.AioRpcError as error:
            raise NoWorker(f"{name}: {error.details()}") from None

"""Models that sleep: idle, their weights in the host's memory, ready to wake within seconds.

A sleeping model has given its slot up, yet its process is tied to it. It ends when it has not been requested for a
while, when its memory is needed, or when its process has died: a restarted one would be awake at a slot that may belong
to another model.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Protocol

import grpc

from vllama_balancer.errors import NoWorker
from vllama_balancer.fleet.events import ProcessState
from vllama_balancer.scheduler.model import SleepingModel
from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from vllama_balancer.scheduler.model import LoadedModel
    from vllama_balancer.scheduler.replicas import Replicas
    from vllama_balancer.scheduler.settings import WatchedPool
    from vllama_balancer.scheduler.state import Replica
    from vllama_balancer.workers.channel import Channel
    from vllama_balancer.workers.pool import Pool

logger = logging.getLogger(__name__)

SLEEP_SECONDS = 120.0
"""Longest time for moving weights to the host's memory: 140 GB over a slow bus."""
WAKE_SECONDS = 120.0
"""Longest time for moving them back."""


class SleepControl(Protocol):
    """Puts workers to sleep and wakes them."""

    async def sleep(self, worker: str) -> None:
        """Moves a worker's weights to the host's memory. Raises NoWorker with the cause."""
        ...

    async def wake(self, worker: str) -> None:
        """Moves them back. Raises NoWorker with the cause."""
        ...


class GrpcSleepControl:
    """A SleepControl that calls the workers of a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def sleep(self, worker: str) -> None:
        await self._call(worker, lambda channel: channel.worker.Sleep(worker_pb2.SleepRequest(), timeout=SLEEP_SECONDS))

    async def wake(self, worker: str) -> None:
        await self._call(worker, lambda channel: channel.worker.Wake(worker_pb2.WakeRequest(), timeout=WAKE_SECONDS))

    async def _call(self, name: str, call: Callable[[Channel], Awaitable[object]]) -> None:
        worker = self._pool.find(name)
        if worker is None:
            raise NoWorker(f"{name} has left")
        try:
            await call(worker.channel)
        except grpc.aio.AioRpcError as error:
            raise NoWorker(f"{name}: {error.details()}") from None


class SleepingModels:
    """Puts models to sleep and wakes them. Close it at the end."""

    def __init__(
        self,
        replicas: Replicas,
        pool: WatchedPool,
        control: SleepControl,
        sleep_seconds: float,
        changed: Callable[[], None],
    ) -> None:
        """Calls `changed` when a sleeping model has ended."""
        self._replicas = replicas
        self._pool = pool
        self._control = control
        self._sleep_seconds = sleep_seconds
        self._changed = changed
        self._clock = asyncio.get_running_loop().time
        self._models: dict[str, SleepingModel] = {}
        self._watches: dict[SleepingModel, asyncio.Task[None]] = {}

    def models(self) -> tuple[SleepingModel, ...]:
        return tuple(self._models.values())

    async def put_to_sleep(self, model: LoadedModel, replica: Replica) -> None:
        """Lets a worker sleep and frees its slot. Raises NoWorker, and then the worker is as it was."""
        await self._control.sleep(replica.worker)
        self._replicas.fell_asleep(replica)
        asleep = SleepingModel(model.key, model.name, replica, self._clock(), model.size_bytes)
        self._models[model.key] = asleep
        self._watches[asleep] = asyncio.create_task(self._watch(asleep), name=f"sleep of {model.key}")
        self._watches[asleep].add_done_callback(lambda _: self._watches.pop(asleep))
        logger.info("model %s sleeps: worker %s", model.name, replica.worker)

    async def wake(self, key: str) -> Replica | None:
        """Takes the slot, which is free, and wakes the model there; None when its worker has ended."""
        if (asleep := self._taken(key)) is None:
            return None
        self._replicas.wakes(asleep.replica)
        logger.info("model %s wakes: worker %s", asleep.name, asleep.replica.worker)
        try:
            await self._control.wake(asleep.replica.worker)
        except NoWorker as error:
            logger.warning("model %s did not wake and is loaded anew: %s", asleep.name, error)
            await self._replicas.end(asleep.replica)
            return None
        return asleep.replica

    async def end(self, key: str) -> bool:
        """Ends a sleeping model, and returns whether it slept."""
        if (asleep := self._taken(key)) is None:
            return False
        await self._end(asleep)
        return True

    async def close(self) -> None:
        """Ends the watches; the fleet ends the workers."""
        tasks = tuple(self._watches.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _taken(self, key: str) -> SleepingModel | None:
        """Removes a model, so that nothing else wakes or ends it."""
        asleep = self._models.pop(key, None)
        if asleep is not None:
            self._watches[asleep].cancel()
        return asleep

    async def _end(self, asleep: SleepingModel) -> None:
        await self._replicas.end(asleep.replica)
        self._changed()

    async def _watch(self, asleep: SleepingModel) -> None:
        """Ends a model whose time is over, or whose process has died."""
        reason = "not requested"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._sleep_seconds):
                await self._process_ended(asleep.replica.worker)
                reason = "its process has died"
        # From here on it can no longer be woken.
        del self._models[asleep.key]
        logger.info("model %s ends in its sleep: %s", asleep.name, reason)
        await self._end(asleep)

    async def _process_ended(self, name: str) -> None:
        """Returns when the worker's process is no longer the one that fell asleep."""
        asleep = self._pool.find(name)
        process_id = asleep.process.pid if asleep is not None else 0
        while True:
            version = self._pool.changes.version
            worker = self._pool.find(name)
            if worker is None or worker.process.state is not ProcessState.RUNNING or worker.process.pid != process_id:
                return
            await self._pool.changes.after(version)

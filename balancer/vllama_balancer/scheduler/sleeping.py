"""Models that are asleep: idle, their weights in the host's memory, ready to wake within seconds.

A sleeper has given its place up, yet its process is tied to it. It ends when nobody has woken it for a while, when
its memory is needed, or when its process has died: a restarted one would be awake at a place that is another's.

Puts workers to sleep and wakes them over gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import grpc

from vllama_balancer.errors import NoWorker
from vllama_balancer.fleet.events import ProcessState
from vllama_balancer.scheduler.state import SleeperState
from vllama_protos.v1 import fleet_pb2, worker_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from vllama_balancer.scheduler.replicas import Replica, Replicas
    from vllama_balancer.scheduler.settings import WatchedPool
    from vllama_balancer.workers.channel import Channel
    from vllama_balancer.workers.pool import Pool


logger = logging.getLogger(__name__)


class SleepControl(Protocol):
    """What puts workers to sleep and wakes them."""

    async def sleep(self, worker: str) -> None:
        """Moves a worker's weights to the host's memory. Raises NoWorker with the cause."""
        ...

    async def wake(self, worker: str) -> None:
        """Moves them back. Raises NoWorker with the cause."""
        ...


@dataclass(eq=False, frozen=True, slots=True)
class Sleeper:
    """One model that is asleep."""

    name: str
    """Its name, for people."""
    state: SleeperState
    """What is decided upon."""
    replica: Replica
    """Its worker, and the place that it left."""
    watch: asyncio.Task[None]
    """Ends it when its time is over or its process has died."""


class SleepingModels:
    """Puts models to sleep and wakes them. Close it at the end."""

    def __init__(
        self,
        replicas: Replicas,
        pool: WatchedPool,
        control: SleepControl,
        sleep_seconds: float,
        tell: Callable[[], None],
    ) -> None:
        """Calls `tell` when a sleeper has ended by itself."""
        self._berths = replicas
        self._pool = pool
        self._control = control
        self._sleep_seconds = sleep_seconds
        self._tell = tell
        self._clock = asyncio.get_running_loop().time
        self._sleepers: dict[str, Sleeper] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def states(self) -> tuple[SleeperState, ...]:
        """Shows who sleeps."""
        return tuple(sleeper.state for sleeper in self._sleepers.values())

    def statuses(self) -> list[fleet_pb2.ModelStatus]:
        """Tells people who sleeps where."""
        return [
            fleet_pb2.ModelStatus(
                model=sleeper.name, state=fleet_pb2.MODEL_STATE_SLEEPING, workers=[sleeper.replica.worker]
            )
            for sleeper in self._sleepers.values()
        ]

    async def put_to_sleep(self, key: str, name: str, replica: Replica, size_bytes: int) -> None:
        """Lets a worker sleep and frees its place. Raises NoWorker, and then it is as it was."""
        await self._control.sleep(replica.worker)
        self._berths.leave(replica)
        state = SleeperState(key, replica.place, self._clock(), size_bytes)
        watch = asyncio.create_task(self._watch(key, replica.worker), name=f"sleep of {key}")
        self._ending.add(watch)
        watch.add_done_callback(self._ending.discard)
        self._sleepers[key] = Sleeper(name, state, replica, watch)
        logger.info("%s sleeps as %s; its weights are in the host's memory", name, replica.worker)

    async def wake(self, key: str) -> Replica | None:
        """Takes the place, which is free, and wakes the model there; None when it has ended, now or meanwhile."""
        sleeper = self._sleepers.pop(key, None)
        if sleeper is None:
            return None
        sleeper.watch.cancel()
        self._berths.return_to(sleeper.replica)
        logger.info("%s wakes as %s", sleeper.name, sleeper.replica.worker)
        try:
            await self._control.wake(sleeper.replica.worker)
        except NoWorker as error:
            logger.warning("%s did not wake and is loaded anew: %s", sleeper.name, error)
            await self._berths.end(sleeper.replica)
            return None
        return sleeper.replica

    async def end(self, key: str) -> None:
        """Ends a model that is asleep; one that is not is no error."""
        sleeper = self._sleepers.pop(key, None)
        if sleeper is not None:
            sleeper.watch.cancel()
            await self._berths.end_asleep(sleeper.replica)
            self._tell()

    async def close(self) -> None:
        """Ends the watching; the workers are the fleet's to end."""
        for task in tuple(self._ending):
            task.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def _watch(self, key: str, worker: str) -> None:
        why = "nobody has asked for it"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._sleep_seconds):
                await self._lost(worker)
                why = "its process has died"
        # From here on it is nobody's to wake.
        sleeper = self._sleepers.pop(key)
        logger.info("ending %s, which was asleep: %s", sleeper.name, why)
        await self._berths.end_asleep(sleeper.replica)
        self._tell()

    async def _lost(self, name: str) -> None:
        """Returns when the worker's process is no longer the one that fell asleep."""
        asleep = self._pool.find(name)
        process_id = asleep.process.pid if asleep is not None else 0
        while True:
            version = self._pool.changes.version
            worker = self._pool.find(name)
            if worker is None or worker.process.state is not ProcessState.RUNNING or worker.process.pid != process_id:
                return
            await self._pool.changes.after(version)


SLEEP_SECONDS = 120.0
"""Longest time for moving weights to the host's memory: 140 GB over a slow bus."""
WAKE_SECONDS = 120.0
"""Longest time for moving them back."""


class GrpcSleepControl:
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

"""Brings models to their first place: makes room for them, wakes or starts them, waits until they serve.

Waits until a model's workers can serve, have failed, or have stopped making progress.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from typing import TYPE_CHECKING

from vllama_balancer.errors import NoWorker
from vllama_balancer.fleet.events import ProcessState
from vllama_balancer.scheduler.decisions import (
    EndSleeper,
    Evict,
    Pause,
    Refuse,
    ScaleDown,
    Start,
    Wait,
    Wake,
    next_step,
    reclaim_gpu,
)
from vllama_balancer.scheduler.memory import TooLarge

if TYPE_CHECKING:
    from vllama_balancer.scheduler.autoscale import Autoscaler
    from vllama_balancer.scheduler.machine import Machine
    from vllama_balancer.scheduler.memory import GpuMemory
    from vllama_balancer.scheduler.model import LoadedModel
    from vllama_balancer.scheduler.settings import WatchedPool, WatchedWorker
    from vllama_balancer.scheduler.unloader import Unloader


logger = logging.getLogger(__name__)

DOES_NOT_FIT = "MODEL_DOES_NOT_FIT"
"""Reason of a refusal for want of memory."""


class Loader:
    """Loads models, one after the other as far as they compete for places."""

    def __init__(self, machine: Machine, growth: Autoscaler, unloader: Unloader, gpus: GpuMemory) -> None:
        self._machine = machine
        self._autoscaler = growth
        self._unloader = unloader
        self._gpus = gpus

    async def load(self, resident: LoadedModel) -> None:
        """Returns when a model can serve. Raises NoWorker with the cause, and then nothing of it is left."""
        try:
            async with self._machine.slot_search:
                await self._settle(resident)
            await self.until_ready(resident)
        except NoWorker as error:
            logger.warning("%s cannot be loaded: %s", resident.name, error)
            await self._unloader.leave(resident)
            raise

    async def until_ready(self, resident: LoadedModel) -> None:
        """Returns when a model that has its place can serve. Raises NoWorker with the cause."""
        await until_ready(self._machine.pool, resident, self._machine.settings.stall_seconds)

    async def _settle(self, resident: LoadedModel) -> None:
        """Goes step by step until the model has a place. Raises NoWorker when there is none ever."""
        while not resident.replicas:
            await self._take_step(resident)
        # Who was to make way, and need not any more, goes on.
        for other in self._machine.residents.values():
            other.paused = False
        self._machine.changes.tell()

    async def _take_step(self, resident: LoadedModel) -> None:
        machine = self._machine
        version = machine.changes.version
        match next_step(machine.snapshot(), resident.key, machine.settings):
            case Start(place):
                await machine.sleepers.end(resident.key)
                await self._make_memory(resident, place)
                # Somebody waits: the cause now is worth more than a second try.
                machine.occupy(resident, place, fail_fast=True)
            case Wake(place):
                await self._make_memory(resident, place, is_asleep=True)
                resident.placed_at = machine.clock()
                if (replica := await machine.sleepers.wake(resident.key)) is not None:
                    resident.replicas.append(replica)
            case ScaleDown(key, place):
                await self._autoscaler.give_up(machine.residents[key], place)
            case Evict(key):
                machine.eviction_history.evicted(key, machine.clock(), machine.residents[key].load_seconds)
                await self._unloader.leave(machine.residents[key], may_sleep=True)
            case Pause(key):
                logger.info("%s has had its turn and makes way for %s", machine.residents[key].name, resident.name)
                machine.residents[key].paused = True
            case Refuse(reason):
                raise NoWorker(reason)
            case Wait(seconds):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(machine.changes.after(version), seconds)

    async def _make_memory(self, resident: LoadedModel, place: int, *, is_asleep: bool = False) -> None:
        """Sees to it that the worker finds its memory on the GPU.

        Raises NoWorker with the numbers when it will not; one that sleeps there may try all the same.
        """
        machine = self._machine
        slot, places = machine.replicas.slot(place), machine.replicas.neighbours(place)
        if not places:
            return  # no GPU
        patience_until = machine.clock() + machine.settings.gpu_release_seconds
        look = functools.partial(self._gpus.obstacle, resident.model, slot, is_asleep=is_asleep)
        while (found := await asyncio.to_thread(look)) is not None:
            step = None if isinstance(found, TooLarge) else reclaim_gpu(machine.snapshot(), resident.key, places)
            if isinstance(step, EndSleeper):
                await machine.sleepers.end(step.key)
            elif isinstance(step, Evict):
                await self._unloader.leave(machine.residents[step.key])
            elif is_asleep:
                return
            elif isinstance(found, TooLarge) or machine.clock() >= patience_until:
                raise NoWorker(found.reason, reason=DOES_NOT_FIT)
            else:
                # The driver takes a moment to give back what a process had that has just ended.
                await asyncio.sleep(machine.settings.gpu_release_seconds / 10)


LOOK_SECONDS = 1.0
"""Progress within a phase is no change of state, so it is looked at this often."""


async def until_ready(pool: WatchedPool, resident: LoadedModel, stall_seconds: float) -> None:
    """Returns when one of the model's workers serves.

    Raises NoWorker with the cause when all have been given up, or when none has made any progress for
    `stall_seconds` (0: no limit).
    """
    loop = asyncio.get_running_loop()
    progress: object = None
    moved_at = loop.time()
    while True:
        version = pool.changes.version
        workers = [worker for name in resident.workers if (worker := pool.find(name)) is not None]
        if any(not worker.unavailable for worker in workers):
            return
        if workers and all(worker.process.state is ProcessState.FAILED for worker in workers):
            raise NoWorker(f"the model could not be loaded: its worker {workers[0].process.reason}")
        if progress != (progress := [_progress(worker) for worker in workers]):
            moved_at = loop.time()
        if 0 < stall_seconds <= loop.time() - moved_at:
            raise NoWorker(
                f"the model could not be loaded: no progress for {stall_seconds:.0f} s; "
                "see the log, or raise --load-timeout"
            )
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(pool.changes.after(version), LOOK_SECONDS)


def _progress(worker: WatchedWorker) -> object:
    report = worker.report
    return (worker.process.pid, report and (report.boot_id, report.state, report.phase, report.progress))

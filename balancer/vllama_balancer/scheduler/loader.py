"""Loads models: finds a slot, checks the memory there, starts or wakes a worker, and waits until it serves."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from typing import TYPE_CHECKING

from vllama_balancer.errors import NoWorker
from vllama_balancer.fleet.events import ProcessState
from vllama_balancer.scheduler.decisions import (
    EndSleeping,
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
from vllama_balancer.scheduler.memory import TooLarge, selector_of
from vllama_protos.errors import reason_text
from vllama_protos.v1.errors_pb2 import ErrorReason

if TYPE_CHECKING:
    from vllama_balancer.scheduler.autoscale import Autoscaler
    from vllama_balancer.scheduler.machine import Machine
    from vllama_balancer.scheduler.memory import GpuMemory
    from vllama_balancer.scheduler.model import LoadedModel
    from vllama_balancer.scheduler.settings import WatchedPool, WatchedWorker
    from vllama_balancer.scheduler.unloader import Unloader

logger = logging.getLogger(__name__)

DOES_NOT_FIT = reason_text(ErrorReason.ERROR_REASON_MODEL_DOES_NOT_FIT)
PROGRESS_POLL_SECONDS = 1.0
"""Progress within a phase does not count as a change of the pool, so it is polled."""


class Abandoned(NoWorker):
    """A load that no request waits for any more; nothing has been taken for it."""


class Loader:
    """Loads models, one after the other as far as they compete for slots."""

    def __init__(self, machine: Machine, autoscaler: Autoscaler, unloader: Unloader, gpus: GpuMemory) -> None:
        self._machine = machine
        self._autoscaler = autoscaler
        self._unloader = unloader
        self._gpus = gpus

    async def load(self, model: LoadedModel) -> None:
        """Returns when a model serves. Raises NoWorker with the cause, and then the model has been unloaded."""
        try:
            async with self._machine.slot_search:
                await self._find_slot(model)
            await self.until_ready(model)
        except Abandoned as error:
            logger.info("model %s not loaded: %s", model.name, error)
            await self._unloader.unload(model)
            raise
        except NoWorker as error:
            await self._failed(model, error)
            raise
        except Exception as error:
            logger.exception("unhandled exception in the load of model %s", model.name)
            failure = NoWorker(f"the model could not be loaded: {error}")
            await self._failed(model, failure)
            raise failure from error

    async def _failed(self, model: LoadedModel, error: NoWorker) -> None:
        """Unloads a model that could not be loaded, and records the error if a new try would cost anything."""
        logger.warning("model %s not loaded: %s", model.name, error)
        if model.replicas or error.reason == DOES_NOT_FIT:
            self._machine.load_failures.record(model, self._machine.clock(), error)
        await self._unloader.unload(model)

    async def until_ready(self, model: LoadedModel) -> None:
        """Returns when a model that has its slot serves. Raises NoWorker with the cause."""
        await until_ready(self._machine.pool, model, self._machine.settings.stall_seconds)

    async def _find_slot(self, model: LoadedModel) -> None:
        """Takes steps until the model has a slot. Raises NoWorker when there will never be one."""
        try:
            await self._check_size(model)
            while not model.replicas:
                await self._take_step(model)
        finally:
            # Models paused for this load resume.
            for other in self._machine.models.values():
                other.paused = False
            self._machine.changes.increment()

    async def _check_size(self, model: LoadedModel) -> None:
        """Raises NoWorker for a model that fits nowhere, before another one makes way for it in vain."""
        slots = self._machine.replicas.slots()
        if not any(map(selector_of, slots)):
            return  # no GPU
        if (too_large := await asyncio.to_thread(self._gpus.too_large, model.hosted, slots)) is not None:
            raise NoWorker(too_large.reason, reason=DOES_NOT_FIT)

    async def _take_step(self, model: LoadedModel) -> None:
        """Takes the next step. Raises Abandoned when no request waits for the model any more."""
        machine = self._machine
        _check_awaited(model)
        version = machine.changes.version
        match next_step(machine.snapshot(), model.key, machine.settings):
            case Start(slot):
                await machine.sleeping.end(model.key)
                await self._make_memory(model, slot)
                # A request waits: the cause of a failure now is worth more than a second try.
                machine.occupy(model, slot, fail_fast=True)
            case Wake(slot):
                await self._make_memory(model, slot, is_asleep=True)
                model.placed_at = machine.clock()
                if (replica := await machine.sleeping.wake(model.key)) is not None:
                    model.replicas.append(replica)
            case ScaleDown(key, slot):
                await self._autoscaler.scale_down(machine.models[key], slot)
            case Evict(key):
                evicted = machine.models[key]
                machine.eviction_history.evicted(key, machine.clock(), evicted.load_seconds)
                await self._unloader.unload(evicted, may_sleep=True)
            case Pause(key):
                logger.info("model %s paused: %s waits for its slot", machine.models[key].name, model.name)
                machine.models[key].paused = True
            case Refuse(reason):
                raise NoWorker(reason)
            case Wait(seconds):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await machine.changes.after(version)

    async def _make_memory(self, model: LoadedModel, slot: int, *, is_asleep: bool = False) -> None:
        """Returns when the GPU of a slot has the memory that a worker needs.

        Raises NoWorker with the numbers when it will not; a model that sleeps there may try all the same.
        """
        machine = self._machine
        slots = machine.replicas.same_gpu(slot)
        if not slots:
            return  # no GPU
        wait_until = machine.clock() + machine.settings.gpu_release_seconds
        look = functools.partial(self._gpus.shortage, model.hosted, machine.replicas.slot(slot), is_asleep=is_asleep)
        while (shortage := await asyncio.to_thread(look)) is not None:
            _check_awaited(model)
            step = None if isinstance(shortage, TooLarge) else reclaim_gpu(machine.snapshot(), model.key, slots)
            if isinstance(step, EndSleeping):
                await machine.sleeping.end(step.key)
            elif isinstance(step, Evict):
                await self._unloader.unload(machine.models[step.key])
            elif is_asleep:
                return
            elif isinstance(shortage, TooLarge) or machine.clock() >= wait_until:
                raise NoWorker(shortage.reason, reason=DOES_NOT_FIT)
            else:
                # The driver takes a moment to release the memory of a process that has just ended.
                await asyncio.sleep(machine.settings.gpu_release_seconds / 10)


def _check_awaited(model: LoadedModel) -> None:
    """Raises Abandoned when no request waits for a model any more."""
    if not model.requests:
        raise Abandoned("no request waits for it any more")


async def until_ready(pool: WatchedPool, model: LoadedModel, stall_seconds: float) -> None:
    """Returns when one of the model's workers serves.

    Raises NoWorker with the cause when all have been given up, or when none has made any progress for
    `stall_seconds` (0: no limit).
    """
    loop = asyncio.get_running_loop()
    progress: object = None
    moved_at = loop.time()
    while True:
        version = pool.changes.version
        workers = [worker for name in model.workers if (worker := pool.find(name)) is not None]
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
            async with asyncio.timeout(PROGRESS_POLL_SECONDS):
                await pool.changes.after(version)


def _progress(worker: WatchedWorker) -> object:
    report = worker.report
    return (worker.process.pid, report and (report.boot_id, report.state, report.phase, report.progress))

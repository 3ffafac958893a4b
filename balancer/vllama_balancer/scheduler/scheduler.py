"""The loaded models as requests see them: each is kept loaded while it is used, and loaded first if need be.

A place is one worker's share of the machine. What is to be done is decided in `decisions.py`, from a picture of the
machine; arrivals, departures and growth do it, and here requests wait meanwhile. Pinned models keep at least one
place for ever, and a model with requests is never unloaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import TYPE_CHECKING

from vllama_balancer.errors import DeadlineExceeded, QueueFull
from vllama_balancer.fleet.events import ProcessState
from vllama_balancer.scheduler.autoscale import Autoscaler
from vllama_balancer.scheduler.loader import Loader
from vllama_balancer.scheduler.model import LoadedModel, status_of
from vllama_balancer.scheduler.unloader import Unloader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
    from typing import Any

    from vllama_balancer.fleet.assignment import HostedModel
    from vllama_balancer.scheduler.machine import Machine
    from vllama_balancer.scheduler.memory import GpuMemory
    from vllama_protos.v1 import fleet_pb2


class ModelScheduler:
    """The loaded models. Close it before the fleet."""

    def __init__(
        self,
        machine: Machine,
        gpus: GpuMemory,
        expires: Callable[[str, float | None], None],
        *,
        awaits_preload: bool = False,
    ) -> None:
        """Tells `expires` when a model will leave: seconds from now, None for never.

        With `awaits_preload` nothing is loaded or unloaded before `preload` has been called: whoever asks earlier
        waits, and takes no place from the models that the operator named.
        """
        self._machine = machine
        self._residents = machine.residents
        self._settings = machine.settings
        self._autoscaler = Autoscaler(machine)
        self._unloader = Unloader(machine, self._autoscaler, expires)
        self._loader = Loader(machine, self._autoscaler, self._unloader, gpus)
        self._wished: dict[str, float] = {}
        self._waiting = 0
        self._has_served = False
        self._is_open = asyncio.Event()
        if not awaits_preload:
            self._is_open.set()
        machine.task(self._autoscaler.run())

    # -- what it is asked ------------------------------------------------------------------

    def is_pinned(self, key: str) -> bool:
        """Tells whether a model never leaves."""
        resident = self._residents.get(key)
        return resident is not None and resident.is_pinned

    def is_loaded(self, key: str) -> bool:
        """Tells whether requests for a model go straight to its workers."""
        resident = self._present(key)
        return resident is not None and resident.is_loaded

    @property
    def loads_on_demand(self) -> bool:
        """Whether a request for a model that is not loaded waits while it is being loaded, once one has served."""
        return self._has_served and not any(resident.is_pinned for resident in self._residents.values())

    def statuses(self) -> list[fleet_pb2.ModelStatus]:
        """Lists the models that are loaded, being loaded, or asleep."""
        awake = [status_of(resident) for resident in self._residents.values()]
        return awake + self._machine.sleepers.statuses()

    # -- what it is told -------------------------------------------------------------------

    def preload(self, models: Sequence[tuple[str, HostedModel]], *, pinned: bool) -> None:
        """Loads models onto all places, in turn. Call it once; requests that wait for it go on."""
        for key, model in models:
            self._residents[key] = LoadedModel(key, model, is_pinned=pinned, awaits_first_use=not pinned, share=0)
        order = list(self._residents.values())
        for position in range(self._machine.replicas.count):
            resident = order[position % len(order)]
            resident.share += 1
            self._machine.occupy(resident, self._machine.replicas.free[0])
        for resident in order:
            self._begin(resident, self._loader.until_ready(resident))
        self._is_open.set()

    @contextlib.asynccontextmanager
    async def used(self, key: str, model: HostedModel, deadline: float | None = None) -> AsyncIterator[None]:
        """Keeps a model loaded inside the block, loading it first if need be.

        Raises NoWorker with the cause when it cannot be loaded, QueueFull when too many wait already, and
        DeadlineExceeded at the deadline (on the event loop's clock).
        """
        resident = self._present(key)
        if resident is None:
            async with self.patience(deadline):
                await self._is_open.wait()
                resident = await self._presented(key, model)
        resident.users += 1
        if resident.awaits_first_use:
            resident.awaits_first_use = False
            resident.keep_alive_seconds = _forever_if_negative(self._settings.keep_alive_seconds)
        self._unloader.stay(resident)
        try:
            self._autoscaler.forget_retired(resident)
            if resident.is_loaded and not resident.replicas:
                self._begin(resident, self._loader.load(resident))
            if not resident.is_loaded:
                with resident.awaited(deadline):
                    self._machine.changes.tell()
                    async with self.patience(deadline):
                        assert resident.loading is not None
                        await asyncio.shield(resident.loading)
            yield
        finally:
            resident.users -= 1
            resident.last_used = self._machine.clock()
            self._unloader.idle(resident)
            self._machine.changes.tell()

    def keep(self, key: str, seconds: float) -> None:
        """Replaces how long a model stays after its last request."""
        resident = self._residents.get(key)
        if resident is None or resident.is_leaving:
            self._wished[key] = seconds
        elif not resident.is_pinned:
            resident.awaits_first_use = False
            resident.keep_alive_seconds = _forever_if_negative(seconds)
            self._unloader.idle(resident)

    async def unload(self, key: str) -> None:
        """Lets a model go: now when it is idle or asleep, else as soon as it is idle."""
        await self._is_open.wait()
        while (resident := self._residents.get(key)) is not None and resident.is_leaving:
            await resident.left.wait()
        await self._machine.sleepers.end(key)
        resident = self._residents.get(key)
        if resident is None or resident.is_pinned:
            return
        resident.unload_requested = True
        if resident.is_idle:
            await self._unloader.leave(resident)

    async def close(self) -> None:
        """Ends all loading and unloading; the workers are the fleet's to end."""
        for resident in self._residents.values():
            self._unloader.stay(resident)
        await self._machine.close()

    # -- waiting ---------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def patience(self, deadline: float | None) -> AsyncIterator[None]:
        """Bounds a wait: in time by the deadline, in number by the queue's length."""
        if self._waiting >= self._settings.max_waiting:
            raise QueueFull("too many requests wait for models to load", retry_after_seconds=5.0)
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                yield
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed while the model was loaded") from None
        finally:
            self._waiting -= 1

    def _present(self, key: str) -> LoadedModel | None:
        """Finds a model that takes requests now, or will once it has loaded."""
        resident = self._residents.get(key)
        if resident is None or resident.is_leaving or resident.paused or self._is_dead(resident):
            return None
        return resident

    async def _presented(self, key: str, model: HostedModel) -> LoadedModel:
        """Begins to load a model; one that is leaving or makes way for another is waited for first."""
        changes = self._machine.changes
        while (resident := self._residents.get(key)) is not None:
            if not resident.is_leaving and self._is_dead(resident):
                await self._unloader.leave(resident)
            elif resident.is_leaving or resident.paused:
                await changes.after(changes.version)
            else:
                return resident
        wished = self._wished.pop(key, self._settings.keep_alive_seconds)
        was_just_evicted = self._machine.eviction_history.was_just_evicted(key, self._machine.clock())
        resident = LoadedModel(
            key, model, keep_alive_seconds=_forever_if_negative(wished), was_just_evicted=was_just_evicted
        )
        self._residents[key] = resident
        self._begin(resident, self._loader.load(resident))
        return resident

    def _begin(self, resident: LoadedModel, load: Coroutine[Any, Any, None]) -> None:
        resident.loading = self._machine.task(load)
        resident.loading.add_done_callback(lambda loaded: self._settled(resident, loaded))

    def _settled(self, resident: LoadedModel, loaded: asyncio.Future[None]) -> None:
        """Looks at a model whose load has ended: whoever asked for it may be gone."""
        resident.ready_at = self._machine.clock()
        self._has_served |= not loaded.cancelled() and loaded.exception() is None
        if not resident.is_leaving:
            self._unloader.idle(resident)
        self._machine.changes.tell()

    def _is_dead(self, resident: LoadedModel) -> bool:
        """Tells whether all its workers have been given up since it was loaded."""
        if not resident.is_loaded or resident.is_pinned:
            return False
        workers = [self._machine.pool.find(name) for name in resident.workers]
        return all(worker is not None and worker.process.state is ProcessState.FAILED for worker in workers)


def _forever_if_negative(seconds: float) -> float:
    return math.inf if seconds < 0 else seconds
